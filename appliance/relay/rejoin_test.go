package relay_test

import (
	"testing"

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
			await(t, l.Rig, "a standby that could take over", l.InSync)
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
