package kept_test

import (
	"testing"
	"time"

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
// end is judged then, by what became of its process when it ended.
func TestReplicaIsJudgedByWhenItEnded(t *testing.T) {
	asks := make(chan time.Duration, 1)
	l := newLost(t, func(s *relay.Service) {
		s.Hot = true
		s.Ask = func(server int, ago time.Duration, done func(bool)) {
			if server == 1 {
				select {
				case asks <- ago:
				default:
				}
			}
			done(false)
		}
	})
	c := l.opened(40000)
	l.takeover()
	r := l.Replica(c, second, 3000)
	c.Server.MayReset()
	r.Server.MayReset()
	l.ask(r)
	l.until("a comparison", c, func(_, _ script.State) bool { return l.svc.Counts().Compared >= 1 })
	r.Server.Send(script.Out{Flags: script.FIN | script.ACK, Seq: script.Next, Ack: asked, Win: 65535})
	select {
	case ago := <-asks:
		if ago <= 0 {
			t.Errorf("it has ended %v ago, says the question", ago)
		}
	case <-time.After(limit):
		t.Fatalf("nobody asks\n%s", l.Trace())
	}
}

// The former active gave the server up, by a reset, of which the standby was not told. That the
// server knows the connection no more is no wish of its own: the request is told to another one.
func TestServerGivenUpBeforeTakeover(t *testing.T) {
	l := newLost(t, func(s *relay.Service) {
		s.Ask = func(_ int, _ time.Duration, done func(bool)) { done(true) } // it lives
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
