package tun

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

// The appliance that is not active is told of the hosts that ask for an address, too: it may be the next.
func TestAskersAreHeard(t *testing.T) {
	l := newLAN(t)
	heard := make(chan netip.Addr, 1000)
	a := in(l.node[0], func() (*Announcer, error) {
		return NewAnnouncer(AnnouncerConfig{Interface: "eth0", Addrs: []netip.Addr{netip.MustParseAddr(vip4), netip.MustParseAddr(vip6)},
			Heard: func(a netip.Addr) { heard <- a }})
	})
	defer a.Close()
	for _, c := range []struct{ ask, asker string }{{vip4, "10.1.0.1"}, {vip6, "fd01::1"}} {
		l.poke(c.ask)
		eventually(t, c.asker+" is heard", func() bool {
			select {
			case got := <-heard:
				return got.String() == c.asker
			default:
				return false
			}
		})
	}
}

func TestOnLink(t *testing.T) {
	l := newLAN(t)
	l.node[0].run(func() error {
		if err := l.node[0].addr("eth0", "10.1.0.2/24", "fd01::2/64"); err != nil {
			return err
		}
		// A default route whose next hop is of the other family (RFC 8950), as unnumbered
		// fabrics have it: all of IPv4 is not on the link.
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		err = netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")),
			Via: &netlink.Via{AddrFamily: netlink.FAMILY_V6, Addr: net.ParseIP("fe80::1")}})
		if err != nil {
			return fmt.Errorf("add default route: %w", err)
		}
		list, err := OnLink([]netip.Prefix{netip.MustParsePrefix("10.20.0.1/24")}, "eth0")
		for _, want := range []string{"10.1.0.0/24", "fd01::/64", "10.20.0.0/24"} {
			if !slices.Contains(list, netip.MustParsePrefix(want)) {
				t.Errorf("%s is not among %v", want, list)
			}
		}
		for _, p := range list {
			if p.Contains(netip.MustParseAddr("192.0.2.1")) {
				t.Errorf("a host far away is on the network %s", p)
			}
		}
		if _, err := OnLink(nil, "none"); err == nil {
			t.Error("an interface that is not there has networks")
		}
		return err
	})
}
