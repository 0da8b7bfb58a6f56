package relay_test

import (
	"net/netip"
	"testing"

	"lockstep/appliance/relay"
	"lockstep/internal/script"
)

// A wrapped server's question is answered with the newest connection of that client whose server it may be, and with none that has
// ended, or that need not outlive its server.
func TestServed(t *testing.T) {
	for name, kept := range map[string]bool{"outlives its server": true, "gateway": false} {
		t.Run(name, func(t *testing.T) {
			var svc *relay.Service
			r := newRig(t, script.Options{Tune: func(s *relay.Service) { s.Kept, svc = kept, s }})
			c := r.Dial(40000, 1000, 2000)
			if err := c.Handshake(nil, nil); err != nil {
				t.Fatal(err)
			}
			awaits(t, r, c, "a connection", func(_, _ script.State) bool { return svc.Conns() == 1 })
			self, _ := c.Client.Addr()
			client, server := netip.MustParseAddrPort(self), svc.Pool.Addr(0)
			ask := func(client, server netip.AddrPort) bool { _, ok := r.Relay().Served(client, server); return ok }
			if ask(client, server) != kept {
				t.Errorf("found %v", !kept)
			}
			if ask(netip.AddrPortFrom(client.Addr(), client.Port()+1), server) || ask(client, netip.AddrPortFrom(server.Addr(), server.Port()+1)) {
				t.Error("a connection of somebody else's is found")
			}
			c.Client.MayReset()
			c.Server.MayReset()
			if err := r.Takeover(); err != nil {
				t.Fatal(err)
			}
			if ask(client, server) != kept {
				t.Errorf("after a takeover found %v", !kept)
			}
			r.Relay().Reset()
			await(t, r, "its end", func() bool { open, _, _ := r.Relay().Counts(); return open == 0 })
			if ask(client, server) {
				t.Error("a connection is found that has ended")
			}
		})
	}
}
