package kept_test

import (
	"net/netip"
	"testing"
	"time"

	"lockstep/appliance/kept"
	"lockstep/appliance/pool"
	"lockstep/appliance/relay"
	"lockstep/internal/script"
)

// What these tests have in common: an active dies, and with it the digest of the last
// response bytes that it released. The client has them. Only the server that sent them
// can prove what they were, by sending them again; another one may follow up to there
// and not beyond (invariant 6).

const (
	asked   = 101  // the request is 1:101
	covered = 501  // the response until here, and its digest, is known to the standby
	gone    = 1101 // the client has it until here, nobody else does
	further = 1501 // another server gets this far
)

const limit = 15 * time.Second

func newRig(t *testing.T, o script.Options) *script.Rig {
	t.Helper()
	r, err := script.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		var idle []string
		if !t.Failed() && !r.Wait(limit, func() bool { idle = r.Relay().WaitForNothing(); return len(idle) == 0 }, nil) {
			t.Errorf("waits for nothing: %v", idle)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if err := r.Err(); err != nil {
			t.Errorf("%v\n%s", err, r.Trace())
		}
	})
	return r
}

// lost is a rig whose service has other servers from the takeover on.
type lost struct {
	t *testing.T
	*script.Rig
	svc  *relay.Service // of the current active
	more []netip.AddrPort
	then func(*relay.Service) // called with the next active's
}

var second = netip.MustParseAddrPort("10.20.0.12:8080")

func newLost(t *testing.T, tune func(*relay.Service)) *lost { return newLostOf(t, 0, tune) }

// newLostOf is newLost with a send buffer of so many bytes; 0: the default.
func newLostOf(t *testing.T, sendBuffer int, tune func(*relay.Service)) *lost {
	l := &lost{t: t, more: []netip.AddrPort{second}}
	l.Rig = newRig(t, script.Options{MinRTO: time.Minute, SendBuffer: sendBuffer, Tune: func(s *relay.Service) {
		s.Kept, s.LogLimit, s.Patience = true, 1<<20, time.Hour
		s.Ask = func(_ int, _ uint64, done func(kept.Fate)) { done(kept.Dead) } // a server that ends is dead
		tune(s)
		if l.svc != nil {
			s.Pool = pool.New(pool.Config{Servers: append(s.Pool.Servers(), l.more...)})
		}
		if l.svc = s; l.then != nil {
			l.then(s)
		}
	}})
	return l
}

// until waits for what both ends of c show.
func (l *lost) until(what string, c *script.Conn, cond func(client, server script.State) bool) {
	l.t.Helper()
	if !c.Await(cond, nil) {
		l.t.Fatalf("%s: does not happen; client %+v, server %+v, %+v; %v\n%s", what, c.Client.State(), c.Server.State(), l.svc.Counts(), l.Err(), l.Trace())
	}
}

// await waits for what no packet announces, too.
func (l *lost) await(what string, cond func() bool) {
	l.t.Helper()
	if !l.Wait(limit, cond, nil) {
		l.t.Fatalf("%s: does not happen; %v\n%s", what, l.Err(), l.Trace())
	}
}

func (l *lost) settle() {
	l.t.Helper()
	if !l.Settle() {
		l.t.Fatalf("does not come to rest; %v\n%s", l.Err(), l.Trace())
	}
}

// opened is a connection whose response is known to the standby up to covered.
func (l *lost) opened(port uint16) *script.Conn { return l.openedWith(port, nil) }

// openedWith is opened by a client of other options.
func (l *lost) openedWith(port uint16, client *script.Opts) *script.Conn {
	l.t.Helper()
	c := l.Dial(port, 1000, 2000)
	if err := c.Handshake(client, nil); err != nil {
		l.t.Fatal(err)
	}
	send(c.Client, script.Next, asked-1, 1)
	l.until("the request", c, func(_, s script.State) bool { return s.Received == asked })
	send(c.Server, script.Next, covered-1, asked)
	l.until("a response", c, func(cl, _ script.State) bool { return cl.Received == covered })
	send(c.Client, script.Next, 0, covered)
	l.until("its acknowledgement", c, func(_, s script.State) bool { return s.Acked == covered })
	l.settle()
	return c
}

// loseDigest makes the response go on to gone; the standby never hears of it.
func (l *lost) loseDigest(c *script.Conn) {
	l.t.Helper()
	l.Journal().Hold(true)
	send(c.Server, script.Next, gone-covered, asked)
	l.until("more of the response", c, func(cl, _ script.State) bool { return cl.Received == gone })
}

func (l *lost) takeover() {
	l.t.Helper()
	l.settle()
	if err := l.Takeover(); err != nil {
		l.t.Fatal(err)
	}
}

// follow makes another server take the request and answer it up to further, and waits
// until that was compared with what the digests cover.
func (l *lost) follow(r *script.Conn, alt bool) {
	l.t.Helper()
	compared := l.svc.Counts().Compared
	l.ask(r)
	goOn(r, further-covered, alt)
	l.until("all of its answer", r, func(_, s script.State) bool { return l.svc.Counts().Compared > compared })
	l.settle()
}

// ask makes another server take the request and answer what the digests cover.
func (l *lost) ask(r *script.Conn) {
	l.t.Helper()
	l.until("a dial of another server", r, func(_, s script.State) bool { return s.Received == 1 })
	r.Server.Send(script.Out{Flags: script.SYN | script.ACK, Ack: 1, Win: 65535, Opts: &script.DefaultOpts})
	l.until("the request at another server", r, func(_, s script.State) bool { return s.Received == asked })
	send(r.Server, script.Next, covered-1, asked)
}

// goOn makes it answer n bytes more; alt: other ones than the source does.
func goOn(r *script.Conn, n int, alt bool) {
	r.Server.Send(script.Out{Flags: script.ACK | script.PSH, Seq: script.Next, Len: n, Ack: asked, Win: 65535, Alt: alt})
}

// stays checks that the client was told nothing new, and is not reset.
func (l *lost) stays(c *script.Conn, at int64) {
	l.t.Helper()
	if s, n := c.Client.State(), l.svc.Counts(); s.Received != at || s.Dead || n.Unverified+n.Failovers+n.GivenUp > 0 {
		l.t.Fatalf("client %+v, it had %d; %+v; %v\n%s", s, at, n, l.Err(), l.Trace())
	}
}

func send(p *script.Peer, seq int64, n int, ack int64) {
	p.Send(script.Out{Flags: script.ACK | script.PSH, Seq: seq, Len: n, Ack: ack, Win: 65535})
}

func first(s *relay.Service) { s.Hot, s.ReleaseFirst = true, true }

// A faster replica does not become the source as long as the source owes the proof. As
// soon as that has sent again what the client has, the replica is compared with it, and
// then goes on.
func TestFasterReplicaAwaitsProof(t *testing.T) {
	l := newLost(t, first)
	c := l.opened(40000)
	l.loseDigest(c)
	send(c.Client, script.Next, 0, gone)
	l.takeover()
	r := l.Replica(c, second, 3000)
	l.follow(r, false)
	l.stays(c, gone)
	if n := l.svc.Counts(); n.Switched != 0 {
		t.Fatalf("%+v: the client gets an unproven replica's bytes", n)
	}
	send(c.Server, covered, gone-covered, asked)
	l.until("the replica's bytes", c, func(cl, _ script.State) bool { return cl.Received == further })
	if n := l.svc.Counts(); n.Switched != 1 || n.Unverified != 0 || n.Diverged != 0 {
		t.Errorf("%+v", n)
	}
}

// A faster replica whose bytes are not what the client has is found out by the
// source's proof; the client never gets any of them, and goes on with the source.
func TestFasterReplicaIsDisproved(t *testing.T) {
	l := newLost(t, first)
	c := l.opened(40000)
	l.loseDigest(c)
	send(c.Client, script.Next, 0, gone)
	l.takeover()
	r := l.Replica(c, second, 3000)
	l.follow(r, true)
	l.stays(c, gone)
	r.Server.MayReset()
	send(c.Server, covered, gone-covered, asked)
	l.until("the divergence", c, func(_, _ script.State) bool { return l.svc.Counts().Diverged == 1 })
	send(c.Server, gone, 100, asked)
	l.until("the source's bytes", c, func(cl, _ script.State) bool { return cl.Received == gone+100 })
	if n := l.svc.Counts(); n.Switched != 0 || n.Unverified != 0 {
		t.Errorf("%+v", n)
	}
}

// A source that falls silent is left for a replica that goes on, but not while it
// alone can prove what the client has; if it dies then, the client is reset. A second
// connection, whose client has no more than the digests cover, shows that the first
// one could have been switched: it is, though its time began later.
func TestSilentSourceAwaitsProof(t *testing.T) {
	l := newLost(t, func(s *relay.Service) { s.Hot = true })
	c, control := l.opened(40000), l.opened(40001)
	l.loseDigest(c)
	send(c.Client, script.Next, 0, gone)
	l.takeover()
	r, other := l.Replica(c, second, 3000), l.Replica(control, second, 3000)
	l.follow(r, true)
	l.follow(other, false)
	l.until("the switch of the other connection", control, func(cl, _ script.State) bool { return cl.Received == further })
	l.settle()
	l.stays(c, gone)
	if n := l.svc.Counts(); n.Switched != 1 {
		t.Errorf("%+v: not only the other connection was switched", n)
	}
	r.Server.MayReset()
	c.Server.Send(script.Out{Flags: script.RST, Seq: covered})
	l.until("the reset", c, func(cl, _ script.State) bool { return cl.Dead })
	if n := l.svc.Counts(); n.Unverified != 1 || n.Failovers != 0 || n.GivenUp != 0 {
		t.Errorf("%+v", n)
	}
	send(other.Server, script.Next, 100, asked)
	l.until("more for the other connection", control, func(cl, _ script.State) bool { return cl.Received == further+100 })
}

// The server dies with the active. As long as the client has not said how far it is,
// a replacement waits; it goes on if the digests cover what the client says it has,
// and else the client is reset.
func TestReplacementAwaitsTheClient(t *testing.T) {
	for name, has := range map[string]int64{"covered": covered, "lost": gone} {
		t.Run(name, func(t *testing.T) {
			l := newLost(t, func(*relay.Service) {})
			c := l.opened(40000)
			if has == gone {
				l.loseDigest(c)
			}
			c.Client.Away(true)
			l.takeover()
			r := l.Replica(c, second, 3000)
			c.Server.Send(script.Out{Flags: script.RST, Seq: covered})
			l.until("the loss", c, func(_, _ script.State) bool { return l.svc.Counts().Lost == 1 })
			l.follow(r, has == gone)
			l.stays(c, has)
			if has == gone {
				r.Server.MayReset()
			}
			c.Client.Away(false)
			send(c.Client, script.Next, 0, has)
			if has == covered {
				l.until("the replacement's bytes", c, func(cl, _ script.State) bool { return cl.Received == further })
			} else {
				l.until("the reset", c, func(cl, _ script.State) bool { return cl.Dead })
			}
			if n := l.svc.Counts(); (n.Failovers == 1) != (has == covered) || (n.Unverified == 1) != (has == gone) || n.GivenUp != 0 {
				t.Errorf("%+v", n)
			}
		})
	}
}

// A connection that the standby takes for idle may have got a response in the active's
// last moment, too. Its client is not asked at the takeover, but it is before another
// server goes on.
func TestIdleClientIsAsked(t *testing.T) {
	for name, has := range map[string]int64{"covered": covered, "lost": gone} {
		t.Run(name, func(t *testing.T) {
			l := newLost(t, func(*relay.Service) {})
			c := l.opened(40000)
			l.pass(40001)
			if has == gone {
				l.loseDigest(c)
				send(c.Client, script.Next, 0, gone)
			}
			l.takeover()
			r := l.Replica(c, second, 3000)
			c.Server.Send(script.Out{Flags: script.RST, Seq: covered})
			l.until("the loss", c, func(_, _ script.State) bool { return l.svc.Counts().Lost == 1 })
			if has == gone {
				r.Server.MayReset()
			}
			l.follow(r, has == gone)
			if has == covered {
				l.until("the replacement's bytes", c, func(cl, _ script.State) bool { return cl.Received == further })
			} else {
				l.until("the reset", c, func(cl, _ script.State) bool { return cl.Dead })
			}
			if n := l.svc.Counts(); (n.Failovers == 1) != (has == covered) || (n.Unverified == 1) != (has == gone) || n.GivenUp != 0 {
				t.Errorf("%+v", n)
			}
		})
	}
}

// pass lets so many batches go to the standby for another connection that those
// before it count as idle.
func (l *lost) pass(port uint16) {
	l.t.Helper()
	c := l.opened(port)
	for i := range int64(100) {
		send(c.Client, script.Next, 1, covered)
		l.until("a byte for the standby", c, func(cl, s script.State) bool { return cl.Acked == asked+i+1 && s.Received == asked+i+1 })
		send(c.Server, script.Next, 0, asked+i+1)
	}
}
