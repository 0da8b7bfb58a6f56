package relay_test

import (
	"testing"
	"time"

	"lockstep/appliance/kept"
	"lockstep/appliance/relay"
	"lockstep/internal/script"
)

// asks is a connection whose server has the request, of a service that outlives its
// servers; those that end are alive.
func asks(t *testing.T, tune func(*relay.Service)) (*script.Rig, *script.Conn, *relay.Service) {
	t.Helper()
	var svc *relay.Service
	r := newRig(t, script.Options{MinRTO: time.Minute, Tune: func(s *relay.Service) {
		s.Kept, s.LogLimit, s.Patience = true, 1<<20, time.Hour
		s.Ask = func(_ int, _ uint64, done func(kept.Fate)) { done(kept.Alive) }
		tune(s)
		svc = s
	}})
	c := r.Dial(40000, 1000, 2000)
	if err := c.Handshake(nil, nil); err != nil {
		t.Fatal(err)
	}
	send(c.Client, script.Next, 100, 1)
	awaits(t, r, c, "the request", func(_, s script.State) bool { return s.Received == 101 })
	return r, c, svc
}

func awaits(t *testing.T, r *script.Rig, c *script.Conn, what string, cond func(client, server script.State) bool) {
	t.Helper()
	if !c.Await(cond, nil) {
		t.Fatalf("%s: does not happen; client %+v, server %+v; %v\n%s", what, c.Client.State(), c.Server.State(), r.Err(), r.Trace())
	}
}

func ended(t *testing.T, r *script.Rig) {
	t.Helper()
	await(t, r, "the end", func() bool {
		open, _, _ := r.Relay().Counts()
		st, _ := r.Journal().Standby()
		return open == 0 && st.Connections == 0 && r.Engine().Legs() == r.Engine().Tombstones()
	})
}

// A living server that answers and resets: the client has the answer first, under every
// protection.
func TestAnswerBeforeReset(t *testing.T) {
	for name, kept := range map[string]bool{"gateway": false, "log": true} {
		t.Run(name, func(t *testing.T) {
			r, c, _ := asks(t, func(s *relay.Service) { s.Kept = kept })
			c.Client.MayReset()
			send(c.Server, script.Next, 1000, 51)
			c.Server.Send(script.Out{Flags: script.RST, Seq: 1001})
			awaits(t, r, c, "the answer", func(cl, _ script.State) bool { return cl.Received == 1001 })
			if !r.Settle() {
				t.Fatal("does not come to rest")
			}
			if c.Client.State().Dead {
				t.Fatalf("reset before the answer is acknowledged\n%s", r.Trace())
			}
			send(c.Client, script.Next, 0, 1001)
			awaits(t, r, c, "the reset", func(cl, _ script.State) bool { return cl.Dead })
			ended(t, r)
		})
	}
}

// A client that sends its last and resets: the server has all of it first.
func TestRequestBeforeReset(t *testing.T) {
	for name, kept := range map[string]bool{"gateway": false, "log": true} {
		t.Run(name, func(t *testing.T) {
			r, c, _ := asks(t, func(s *relay.Service) { s.Kept = kept })
			c.Server.MayReset()
			c.Server.Send(script.Out{Flags: script.ACK, Seq: script.Next, Ack: 101, Win: 1})
			if !r.Settle() { // nothing orders the two legs' segments but this
				t.Fatal("does not come to rest")
			}
			send(c.Client, script.Next, 2000, 1)
			c.Client.Send(script.Out{Flags: script.RST, Seq: 2101})
			if !r.Settle() {
				t.Fatal("does not come to rest")
			}
			if s := c.Server.State(); s.Dead || s.Received > 300 {
				t.Fatalf("server %+v\n%s", s, r.Trace())
			}
			c.Server.Send(script.Out{Flags: script.ACK, Seq: script.Next, Ack: script.Next, Win: 65535})
			awaits(t, r, c, "the rest", func(_, s script.State) bool { return s.Received == 2101 })
			c.Server.Send(script.Out{Flags: script.ACK, Seq: script.Next, Ack: 2101, Win: 65535})
			awaits(t, r, c, "the reset", func(_, s script.State) bool { return s.Dead })
			ended(t, r)
		})
	}
}

// A receiver that takes nothing of what was sent before a reset is waited for a while.
func TestWaitingForTheReceiverEnds(t *testing.T) {
	for name, kept := range map[string]bool{"gateway": false, "log": true} {
		t.Run(name, func(t *testing.T) {
			r, c, _ := asks(t, func(s *relay.Service) { s.Kept, s.Drain = kept, time.Millisecond })
			c.Client.MayReset()
			send(c.Server, script.Next, 1000, 51)
			awaits(t, r, c, "the answer", func(cl, _ script.State) bool { return cl.Received == 1001 })
			c.Server.Send(script.Out{Flags: script.RST, Seq: 1001})
			awaits(t, r, c, "the reset", func(cl, _ script.State) bool { return cl.Dead })
			ended(t, r)
		})
	}
}

// A server that dies when it has ended its response leaves nothing to wait for but the
// client's end: that is acknowledged; what else it sends has no receiver.
func TestServerGoneAfterItsEnd(t *testing.T) {
	for name, more := range map[string]int{"closes": 0, "goes on": 100} {
		t.Run(name, func(t *testing.T) {
			r, c, svc := asks(t, func(*relay.Service) {})
			c.Server.MayReset()
			c.Server.Send(script.Out{Flags: script.ACK | script.FIN, Seq: script.Next, Len: 1000, Ack: 101, Win: 65535})
			awaits(t, r, c, "the response", func(cl, _ script.State) bool { return cl.Received == 1002 })
			send(c.Client, script.Next, 0, 1002)
			awaits(t, r, c, "its acknowledgement", func(_, s script.State) bool { return s.Acked == 1002 })
			svc.Pool.Checked(0, false, "connection refused")
			awaits(t, r, c, "the reset of the server", func(_, s script.State) bool { return s.Dead })
			if g := r.Relay().Gauge(svc); g.Connections != 1 || g.Orphans != 0 {
				t.Errorf("%+v: the connection waits for its client", g)
			}
			if more > 0 {
				c.Client.MayReset()
				send(c.Client, script.Next, more, 1002)
				awaits(t, r, c, "the reset of the client", func(cl, _ script.State) bool { return cl.Dead })
			} else {
				c.Client.Send(script.Out{Flags: script.ACK | script.FIN, Seq: script.Next, Ack: 1002, Win: 65535})
				awaits(t, r, c, "the FIN's acknowledgement", func(cl, _ script.State) bool { return cl.Acked == 102 })
			}
			ended(t, r)
		})
	}
}
