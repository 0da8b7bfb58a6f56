package kept_test

import (
	"testing"
	"time"

	"lockstep/appliance/kept"
	"lockstep/appliance/pool"
	"lockstep/appliance/relay"
	"lockstep/internal/script"
)

// toldAgain is a connection whose client has sent more when it had an answer, and whose server has died, be it after a takeover. Another one has
// been dialled.
func toldAgain(t *testing.T, takeover bool) (l *lost, r *script.Conn) {
	l = newLost(t, func(s *relay.Service) {
		if !takeover {
			s.Pool = pool.New(pool.Config{Servers: append(s.Pool.Servers(), second)})
		}
	})
	c := l.opened(40000)
	send(c.Client, script.Next, more, covered)
	l.until("more of the request", c, func(_, s script.State) bool { return s.Received == asked+more })
	l.settle()
	if takeover {
		l.takeover()
	}
	r = l.Replica(c, second, 3000)
	r.Server.MayReset()
	c.Server.Send(script.Out{Flags: script.RST, Seq: covered})
	l.until("a dial of another server", r, func(_, s script.State) bool { return s.Received == 1 })
	r.Server.Send(script.Out{Flags: script.SYN | script.ACK, Ack: 1, Win: 65535, Opts: &script.DefaultOpts})
	return l, r
}

const more = 50 // bytes

// Another server is told what the client has said behind an answer only when it has given that answer, also by a successor.
func TestPace(t *testing.T) {
	defer kept.SetPaceWait(time.Hour)()
	for name, takeover := range map[string]bool{"in one appliance": false, "after a takeover": true} {
		t.Run(name, func(t *testing.T) {
			l, r := toldAgain(t, takeover)
			l.until("the first request at another server", r, func(_, s script.State) bool { return s.Received == asked })
			for _, half := range []int{200, covered - 1 - 200} {
				if l.settle(); r.Server.State().Received != asked {
					t.Fatalf("the other server has %d of the request, and has not answered it\n%s", r.Server.State().Received, l.Trace())
				}
				send(r.Server, script.Next, half, asked)
			}
			l.until("the second request", r, func(_, s script.State) bool { return s.Received == asked+more })
		})
	}
}

// One that does not answer is told all in the end.
func TestPaceOfTheSilent(t *testing.T) {
	defer kept.SetPaceWait(time.Millisecond)()
	l, r := toldAgain(t, false)
	l.until("all of the request", r, func(_, s script.State) bool { return s.Received == asked+more })
}
