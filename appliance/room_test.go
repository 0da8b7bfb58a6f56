package appliance

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"lockstep/appliance/config"
	"lockstep/tun"
)

// What this machine has no room for is told, with the key or setting that is too low; a machine with room is not warned of.
func TestRoom(t *testing.T) {
	gateway := func(connections int, gateways ...string) *config.Config {
		c := &config.Config{Services: []config.Service{config.DefaultService("web")}}
		s := &c.Services[0]
		s.Source, s.Limits.Connections = config.SourceGateway, connections
		s.Servers = []netip.AddrPort{netip.MustParseAddrPort("10.20.0.11:80"), netip.MustParseAddrPort("10.20.0.12:80")}
		for _, g := range gateways {
			c.Networks.Back.Gateway = append(c.Networks.Back.Gateway, netip.MustParsePrefix(g))
		}
		return c
	}
	const g1, g2, other = "10.20.0.1/24", "10.20.0.2/24", "10.30.0.1/24"
	for _, c := range []struct {
		name  string
		cfg   *config.Config
		short []tun.Shortage
		files uint64
		want  string
		guest bool // has not the rights that `run` needs
	}{
		{"room", gateway(120_000, g1, g2), nil, 260, "", false},
		// A server behind a router: from all of its family's.
		{"routed", gateway(120_000, "10.30.0.1/24", "10.30.0.2/24"), nil, 260, "", false},
		{"ports, routed", gateway(130_000, "10.30.0.1/24", "10.30.0.2/24", "fd20::1/64"), nil, 260, "there are ports for 129024 connections", false},
		{"the default", gateway(config.DefaultConnections, g1), nil, unix.RLIM_INFINITY, "", false},
		{"ports", gateway(130_000, g1, g2, other), nil, 1024, "services[0].limits.connections: with `source: gateway` there are ports for 129024 connections", false},
		{"sysctl", gateway(1, g1), []tun.Shortage{{Sysctl: "net.ipv4.neigh.default.gc_thresh3", Is: "1024", Least: "32768", Sealed: unix.EROFS}}, 1024, "cannot be raised from here (`sysctl -w", true},
		{"sysctl, with rights", gateway(1, g1), []tun.Shortage{{Sysctl: "net.x", Is: "1", Least: "2", Sealed: unix.EACCES}}, 1024, "net.x is 1, which is too low for the clients or connections that there may be, and cannot", false},
		{"sysctl, without rights", gateway(1, g1), []tun.Shortage{{Sysctl: "net.x", Is: "1", Least: "2", Sealed: unix.EACCES}}, 1024, "not known from here whether", true},
		{"descriptors", gateway(1, g1), nil, 259, "may have 259 descriptors here, with 2 servers it may need 260", false},
	} {
		var got []string
		for _, w := range roomWarnings(c.cfg, c.short, c.files, !c.guest) {
			got = append(got, w.String())
		}
		if all := strings.Join(got, "\n"); (c.want == "") != (all == "") || !strings.Contains(all, c.want) || len(got) > 1 {
			t.Errorf("%s: %q, want %q", c.name, all, c.want)
		}
	}
}
