package kept_test

import (
	"testing"
	"time"

	"lockstep/appliance/adapter"
	"lockstep/appliance/relay"
	"lockstep/internal/script"
	"lockstep/replication"
)

// headed is a protocol of which a head lies at headAt, which is released whole.
type headed struct {
	adapter.Raw
	at int
}

const (
	headAt  = covered - 1
	headLen = 200
)

func (h *headed) Response(b []byte) int {
	h.at += len(b)
	return len(b)
}

func (h *headed) Releasable(b []byte, _ bool) int {
	switch {
	case h.at < headAt:
		return min(len(b), headAt-h.at)
	case h.at == headAt && len(b) < headLen:
		return 0
	case h.at == headAt:
		return headLen
	}
	return len(b)
}

// half is a connection whose server has sent half of a head, which is with the standby: the
// server need not keep it.
func half(t *testing.T, tune func(*relay.Service)) (*lost, *script.Conn) {
	l := newLost(t, func(s *relay.Service) {
		s.NewAdapter = func() adapter.Adapter { return &headed{} }
		tune(s)
	})
	c := l.opened(40000)
	send(c.Server, script.Next, headLen/2, asked)
	l.settle()
	ask := func() { l.Journal().Advance(replication.Nanos(time.Second)) } // for it, when the journal has heard of it
	ask()
	if !c.Await(func(_, s script.State) bool { return s.Acked == covered+headLen/2 }, ask) {
		t.Fatalf("half of a head is not safe; server %+v\n%s", c.Server.State(), l.Trace())
	}
	l.has(c, covered, "half of a head")
	return l, c
}

// A head comes in pieces, the first of which the standby has by then.
func TestHeadInPieces(t *testing.T) {
	for name, moved := range map[string]bool{"": false, "takeover": true} {
		t.Run(name, func(t *testing.T) {
			l, c := half(t, func(*relay.Service) {})
			if moved {
				l.more = nil
				l.takeover()
			}
			send(c.Server, script.Next, headLen/2, asked)
			l.until("the head", c, func(cl, _ script.State) bool { return cl.Received == covered+headLen })
		})
	}
}

// A server dies that has sent half of a head, which the standby has. The next one has to begin
// it with the same bytes.
func TestHalfAHeadOfTheDead(t *testing.T) {
	for name, alt := range map[string]bool{"the same": false, "another": true} {
		t.Run(name, func(t *testing.T) {
			l, c := half(t, spare)
			c.Client.MayReset()
			r := l.Replica(c, second, 3000)
			end(c.Server, script.RST)
			l.ask(r)
			r.Server.MayReset()
			goOn(r, headLen+50, alt)
			if alt {
				l.until("the divergence", c, func(_, _ script.State) bool { return l.svc.Counts().Diverged == 1 })
				l.has(c, covered, "of another head")
				return
			}
			l.until("the head, and more", c, func(cl, _ script.State) bool { return cl.Received == covered+headLen+50 })
		})
	}
}

// pieces is a protocol that releases a response in pieces.
type pieces struct{ adapter.Raw }

func (pieces) Releasable(b []byte, _ bool) int { return min(len(b), 500) }

// A client reads slowly, so that the standby has more of the response than was released when
// its server dies. The client gets that; the next server goes on if it has sent the same.
func TestSlowClientsServerDies(t *testing.T) {
	const sent, differs = 20000, 8000 // there the one server has not been compared with the other yet
	for name, alt := range map[string]bool{"the same": false, "another": true} {
		t.Run(name, func(t *testing.T) {
			l := newLostOf(t, 4096, func(s *relay.Service) {
				s.NewAdapter = func() adapter.Adapter { return pieces{} }
				spare(s)
			})
			c := l.opened(40000)
			c.Client.Send(script.Out{Flags: script.ACK, Seq: script.Next, Ack: covered, Win: 0})
			l.settle()
			for at := range sent / 1000 {
				if send(c.Server, script.Next, 1000, asked); at == 6 {
					l.settle() // the rest comes when the client's leg is full, in the middle of a piece
				}
			}
			l.settle()
			for range 50 { // it is asked for piece by piece
				if l.settle(); c.Server.State().Acked > covered+differs+1000 {
					break
				}
				l.Journal().Advance(replication.Nanos(time.Second))
			}
			l.until("more is safe than the client has", c, func(cl, s script.State) bool { return s.Acked > covered+differs+1000 && cl.Received == covered })
			c.Client.MayReset()
			r := l.Replica(c, second, 3000)
			end(c.Server, script.RST)
			l.ask(r)
			r.Server.MayReset()
			for at := 0; at < sent; at += 1000 {
				r.Server.Send(script.Out{Flags: script.ACK, Seq: script.Next, Len: 1000, Ack: asked, Win: 65535, Alt: alt && at == differs})
			}
			l.until("another one serves", c, func(_, _ script.State) bool { return l.svc.Counts().Failovers == 1 })
			c.Client.Send(script.Out{Flags: script.ACK, Seq: script.Next, Ack: covered, Win: 65535})
			goOn(r, 100, false)
			open := func() {
				c.Client.Send(script.Out{Flags: script.ACK, Seq: script.Next, Ack: c.Client.State().Received, Win: 65535})
			}
			done := func(cl, _ script.State) bool { return cl.Received == covered+sent+100 }
			if alt {
				done = func(_, _ script.State) bool { return l.svc.Counts().Diverged == 1 }
			}
			for range 100 { // the client reads on
				if l.settle(); done(c.Client.State(), c.Server.State()) {
					break
				}
				open()
			}
			l.until("the end of the response", c, done)
			if cl := c.Client.State(); cl.Received > covered+sent && alt {
				t.Errorf("the client goes on with another server's: %+v", cl)
			}
		})
	}
}
