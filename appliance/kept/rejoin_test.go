package kept_test

import (
	"sync/atomic"
	"testing"
	"time"

	"lockstep/appliance/kept"
	"lockstep/appliance/relay"
	"lockstep/internal/script"
)

// A connection that outlives its server goes through two takeovers: the second active has
// the leg with the server by the first one's clock, and its TSvals do not go back (invariant 7), or
// the server refuses them as old for as long as the clocks are apart (RFC 7323, 5.3).
func TestKeptThroughTwoTakeovers(t *testing.T) {
	l := newLost(t, func(*relay.Service) {})
	l.more = nil
	c := l.opened(40000)
	for n := range 3 {
		if n > 0 {
			if err := l.Rejoin(); err != nil {
				t.Fatal(err)
			}
			l.await("a standby that could take over", l.InSync)
		}
		l.takeover()
		l.until("both are there again", c, func(cl, s script.State) bool { return cl.Acked >= asked })
		send(c.Client, script.Next, 10, covered)
		l.until("the next request", c, func(_, s script.State) bool { return s.Received == int64(asked+10*(n+1)) })
		l.settle()
		if err := l.Err(); err != nil {
			t.Fatalf("takeover %d: %v\n%s", n+1, err, l.Trace())
		}
	}
}

// A replica that has ended becomes the source when the former one has been silent for a while. Its
// end is judged then, by what has become of the process that it was dialled to.
func TestReplicaIsJudgedByItsProcess(t *testing.T) {
	asks := make(chan uint64, 1)
	var line atomic.Uint64
	line.Store(7)
	l := newLost(t, func(s *relay.Service) {
		s.Hot = true
		s.Line = func(server int) uint64 { return line.Load() }
		s.Ask = func(server int, line uint64, done func(kept.Fate)) {
			if server == 1 {
				select {
				case asks <- line:
				default:
				}
			}
			done(kept.Dead)
		}
	})
	c := l.opened(40000)
	l.takeover()
	r := l.Replica(c, second, 3000)
	c.Server.MayReset()
	r.Server.MayReset()
	l.ask(r)
	l.until("a comparison", c, func(_, _ script.State) bool { return l.svc.Counts().Compared >= 1 })
	line.Store(8) // there is another one by now
	r.Server.Send(script.Out{Flags: script.FIN | script.ACK, Seq: script.Next, Ack: asked, Win: 65535})
	select {
	case line := <-asks:
		if line != 7 {
			t.Errorf("process %d is asked for, the connection was to 7", line)
		}
	case <-time.After(limit):
		t.Fatalf("nobody asks\n%s", l.Trace())
	}
}

// The former active gave the server up, by a reset, of which the standby was not told. That the
// server knows the connection no more is no wish of its own: the request is told to another one.
func TestServerGivenUpBeforeTakeover(t *testing.T) {
	l := newLost(t, func(s *relay.Service) {
		s.Ask = func(_ int, _ uint64, done func(kept.Fate)) { done(kept.Alive) } // it lives
	})
	c := l.opened(40000)
	l.takeover()
	r := l.Replica(c, second, 3000)
	c.Server.MayReset()
	c.Server.Send(script.Out{Flags: script.RST | script.ACK, Seq: script.Next, Ack: asked, Win: 65535})
	l.ask(r)
	goOn(r, further-covered, false)
	l.until("the rest of the response", c, func(cl, _ script.State) bool { return cl.Received == further })
}

// So it is of a connection with which nothing seemed to be going on when the former active died: its server is asked. The
// client may wait for the end of a response that another server was about to be asked for.
func TestServerGivenUpBeforeTakeoverOfIdle(t *testing.T) {
	for name, park := range map[string]time.Duration{"with endpoints": 0, "parked": time.Hour} {
		t.Run(name, func(t *testing.T) {
			l := newLost(t, func(s *relay.Service) {
				s.Park = park
				s.Ask = func(_ int, _ uint64, done func(kept.Fate)) { done(kept.Alive) }
			})
			c := l.opened(40000)
			l.pass(40001)
			l.settle()
			n := c.Server.State().Arrived
			l.takeover()
			r := l.Replica(c, second, 3000)
			l.until("a question", c, func(_, s script.State) bool { return s.Arrived > n })
			c.Server.MayReset()
			c.Server.Send(script.Out{Flags: script.RST | script.ACK, Seq: script.Next, Ack: asked, Win: 65535})
			l.follow(r, false)
			l.until("the rest of the response", c, func(cl, _ script.State) bool { return cl.Received == further })
		})
	}
}

// A standby that had been cut off believes that the servers are down. When it takes over, the server that
// serves is not given up for that, but for a check that fails from then on.
func TestServerIsNotGivenUpForOldNews(t *testing.T) {
	l := newLost(t, func(*relay.Service) {})
	c := l.opened(40000)
	l.then = func(s *relay.Service) { s.Pool.Checked(0, false, "nobody is heard") }
	l.takeover()
	send(c.Server, script.Next, further-covered, asked)
	l.until("the rest of the response", c, func(cl, _ script.State) bool { return cl.Received == further })
	send(c.Client, script.Next, 0, further)
	l.settle()
	if n := l.svc.Counts().Lost; n != 0 {
		t.Fatalf("%d servers are lost", n)
	}
	c.Server.MayReset()
	r := l.Replica(c, second, 3000)
	l.svc.Pool.Checked(0, false, "it is gone")
	send(c.Client, script.Next, 10, further)
	l.until("a dial of another server", r, func(_, s script.State) bool { return s.Received == 1 })
}
