package kept_test

import (
	"net/netip"
	"testing"

	"lockstep/appliance/relay"
	"lockstep/internal/script"
)

// Of three servers the second differs from what was released, and the third is compared
// only when more has been released: with the second one it is two against one, and the
// client, who has what is wrong, is reset; with the first one the second is out, and the
// client goes on.
func TestMajorityAtDifferentPositions(t *testing.T) {
	for name, wrong := range map[string]bool{"the source is wrong": true, "a replica is wrong": false} {
		t.Run(name, func(t *testing.T) {
			third := netip.MustParseAddrPort("10.20.0.13:8080")
			l := newLost(t, func(s *relay.Service) { s.Hot = true })
			l.more = append(l.more, third)
			c := l.opened(40000)
			l.takeover()
			r2, r3 := l.Replica(c, second, 3000), l.Replica(c, third, 4000)
			c.Server.MayReset()
			for _, r := range []*script.Conn{r2, r3} {
				r.Server.MayReset()
				l.ask(r)
			}
			compared := func(n uint64) {
				t.Helper()
				l.until("a comparison", c, func(_, _ script.State) bool { return l.svc.Counts().Compared >= n })
			}
			compared(2)
			send(c.Server, script.Next, gone-covered, asked)
			l.until("more of the response", c, func(cl, _ script.State) bool { return cl.Received == gone })
			goOn(r2, gone-covered, true)
			compared(3)
			send(c.Server, script.Next, further-gone, asked)
			l.until("yet more", c, func(cl, _ script.State) bool { return cl.Received == further })
			goOn(r3, further-covered, wrong)
			compared(4)
			l.settle()
			if wrong {
				l.stays(c, further) // the second one has not said what it has there
				goOn(r2, further-gone, true)
				l.until("the reset", c, func(cl, _ script.State) bool { return cl.Dead })
			} else {
				l.until("the divergence", c, func(_, _ script.State) bool { return l.svc.Counts().Diverged == 1 })
				send(c.Server, script.Next, 100, asked)
				l.until("the source's bytes", c, func(cl, _ script.State) bool { return cl.Received == further+100 })
			}
			if n := l.svc.Counts(); n.Diverged != 1 {
				t.Errorf("%+v", n)
			}
		})
	}
}
