package stack_test

import (
	"net/netip"
	"strings"
	"testing"

	"lockstep/appliance/relay"
	"lockstep/internal/script"
)

// A client for whose server no port is left is turned away and counted; as long as
// another address of ours has one, it is served from there.
func TestNoPortIsCounted(t *testing.T) {
	gateway, server := netip.MustParseAddr("10.20.0.1"), netip.MustParseAddrPort("10.20.0.11:8080")
	for name, second := range map[string]bool{"one address": false, "two addresses": true} {
		t.Run(name, func(t *testing.T) {
			told := make(chan netip.AddrPort, 1)
			r, err := script.New(script.Options{SourceGateway: true, Tune: func(s *relay.Service) {
				s.OnNoPort = func(a netip.AddrPort) { told <- a }
				if second {
					// The first is in a network from which the server may have no way back.
					s.Gateways = append(s.Gateways, netip.MustParsePrefix("203.0.113.10/8"), netip.MustParsePrefix("10.20.0.2/24"))
				}
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			}()
			r.Engine().TakeAllPorts(gateway, server)
			c := r.Dial(40000, 1, 2)
			c.Client.MayReset()
			c.Client.Send(script.Out{Flags: script.SYN, Ack: script.Next, Win: 65535, Opts: &script.DefaultOpts})
			if second {
				if !c.Await(func(_, s script.State) bool { return s.Received == 1 }, nil) {
					t.Fatal("not dialled from the second address")
				}
				if _, from := c.Server.Addr(); !strings.HasPrefix(from, "10.20.0.2:") {
					t.Errorf("dialled from %s", from)
				}
				return
			}
			if got := <-told; got != server {
				t.Errorf("told of %v", got)
			}
			if !r.Wait(benchLimit, func() bool { open, _, _ := r.Relay().Counts(); return open == 0 }, nil) {
				t.Error("the connection stays")
			}
			if n := r.Engine().C.Drops()["no-port"]; n != 1 || r.Engine().Legs() != 0 {
				t.Errorf("%d counted, %d legs", n, r.Engine().Legs())
			}
		})
	}
}
