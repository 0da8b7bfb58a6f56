package tun

import (
	"net/netip"
	"slices"
	"testing"
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
		list, err := OnLink("eth0")
		for _, want := range []string{"10.1.0.0/24", "fd01::/64"} {
			if !slices.Contains(list, netip.MustParsePrefix(want)) {
				t.Errorf("%s is not among %v", want, list)
			}
		}
		if _, err := OnLink("none"); err == nil {
			t.Error("an interface that is not there has networks")
		}
		return err
	})
}
