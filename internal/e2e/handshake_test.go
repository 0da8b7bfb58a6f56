package e2e

import (
	"context"
	"net"
	"testing"

	"lockstep/appliance/control"
	"lockstep/internal/lab/traffic"
)

// A host of the back network, here the server itself, is a client of the virtual address:
// the servers see the gateway's address instead of its own, or they would answer it
// without us. Such connections survive as others do.
func TestHairpin(t *testing.T) {
	p := start(t, options{})
	finish := make(chan struct{})
	var waits []func() traffic.Summary
	var clients []*traffic.Client
	for _, addr := range []string{port4, port6} {
		c := p.client(addr)
		c.Dial = func(ctx context.Context) (net.Conn, error) { return p.Servers[0].DialContext(ctx, "tcp", addr) }
		c.Finish = finish
		clients = append(clients, c)
		waits = append(waits, p.run(c, traffic.Both(20*mib)))
	}
	p.await("traffic flows", func() bool {
		for _, c := range clients {
			if c.Progress.Received.Load() < mib {
				return false
			}
		}
		return true
	})
	kill(p)
	p.await("b is active", func() bool { return p.status("b").Role == control.RoleActive })
	close(finish)
	for _, wait := range waits {
		wait()
	}
}
