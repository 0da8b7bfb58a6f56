package e2e

import (
	"fmt"
	"net/netip"
	"testing"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/appliance/orders"
)

// empty waits until a server of the service has no connection, and none runs beside another's.
func (p *pair) empty(node string, i int) {
	p.t.Helper()
	p.await(fmt.Sprintf("server %d is empty", i), func() bool {
		for _, s := range p.status(node).Services {
			if s.Name == "kept" && p.status(node).Role == control.RoleActive {
				b := s.Servers[i]
				return b.State == control.ServerDrained && b.Connections+b.Beside == 0
			}
		}
		return false
	})
}

// A server is drained under running transfers: its connections move to the other one, and no byte of any is wrong. Then it comes
// back, the other is drained, and the active dies in the middle of that.
func TestDrainMoves(t *testing.T) {
	for _, protection := range []config.Protection{config.ProtectHot, config.ProtectLog} {
		t.Run(string(protection), func(t *testing.T) {
			t.Parallel()
			p, s := startKept(t, keptOptions(2, protection, func(s *config.Service) { s.Balance = config.BalanceTurn }))
			server := [2]netip.AddrPort{netip.MustParseAddrPort("10.20.0.11:8000"), netip.MustParseAddrPort("10.20.0.12:8000")}
			c := p.client(portKept)
			last := make(chan struct{})
			c.Finish = last
			wait := p.run(c, mixed()...)
			p.await("traffic flows", func() bool { return c.Progress.Received.Load() >= 5*mib })
			if done, err := p.order("a", orders.Drain, "kept", server[0]); err != nil || done.Standby != "" {
				t.Fatalf("drain: %+v, %v", done, err)
			}
			p.empty("a", 0)
			p.end(s[0]) // nobody needs it any more
			if k := p.kept("a"); k.Lost+k.Divergences+k.GivenUp+k.Unverified > 0 {
				t.Errorf("a drain has cost %+v", k)
			}
			s[0] = p.serverProc(0)
			if _, err := p.order("a", orders.Enable, "kept", server[0]); err != nil {
				t.Fatal(err)
			}
			if done, err := p.order("a", orders.Drain, "kept", server[1]); err != nil || done.Standby != "" {
				t.Fatalf("drain: %+v, %v", done, err)
			}
			p.kill(p.a)
			p.await("b is active", func() bool { return p.status("b").Role == control.RoleActive })
			p.empty("b", 1)
			p.end(s[1])
			close(last)
			wait()
			if k := p.kept("b"); k.Divergences+k.GivenUp+k.Unverified > 0 {
				t.Errorf("a drain and a takeover have cost %+v", k)
			}
		})
	}
}
