package machine

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"lockstep/images/settings"
	"lockstep/internal/lab"
	"lockstep/internal/lab/labtest"
)

// addressesOf an interface, without those of the kernel's own.
func addressesOf(t *testing.T, h *lab.Host, name string) (out []string) {
	t.Helper()
	link, err := h.Netlink().LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := h.Netlink().AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if !a.IP.IsLinkLocalUnicast() {
			out = append(out, a.IPNet.String())
		}
	}
	slices.Sort(out)
	return out
}

func prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

func TestApplyLinks(t *testing.T) {
	l := labtest.New(t, lab.Options{})
	h, err := l.Host("machine")
	if err != nil {
		t.Fatal(err)
	}
	n, err := l.Network("net", lab.NetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"eth0", "eth1", "eth2"} {
		if _, err := h.Attach(n, name); err != nil {
			t.Fatal(err)
		}
	}
	eth1, err := h.Netlink().LinkByName("eth1")
	if err != nil {
		t.Fatal(err)
	}
	apply := func(links ...settings.Link) error { return h.Do(func() error { return applyLinks(links) }) }

	// By name and by MAC, in another order than the kernel's; with addresses and routes of both families.
	front := settings.Link{Name: "front", Kernel: "eth2", MTU: 1400, Addresses: []netip.Prefix{prefix("203.0.113.2/24"), prefix("2001:db8::2/64")},
		Routes: []settings.Route{{To: prefix("0.0.0.0/0"), Via: netip.MustParseAddr("203.0.113.1")}, {To: prefix("::/0"), Via: netip.MustParseAddr("2001:db8::1")}}}
	back := settings.Link{Name: "eth0", MAC: eth1.Attrs().HardwareAddr, Addresses: []netip.Prefix{prefix("10.20.0.2/24")}}
	other := settings.Link{Name: "eth1", Kernel: "eth0"}
	for range 2 { // the second time everything is there already
		if err := apply(front, back, other); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(addressesOf(t, h, "front"), " "); got != "2001:db8::2/64 203.0.113.2/24" {
		t.Errorf("front has %s", got)
	}
	if got := strings.Join(addressesOf(t, h, "eth0"), " "); got != "10.20.0.2/24" {
		t.Errorf("the one by MAC has %s", got)
	}
	link, err := h.Netlink().LinkByName("front")
	if err != nil || link.Attrs().MTU != 1400 {
		t.Errorf("front is %+v, %v", link, err)
	}
	routes, err := h.Netlink().RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: link.Attrs().Index}, netlink.RT_FILTER_OIF)
	if err != nil {
		t.Fatal(err)
	}
	gateways := map[string]bool{}
	for _, r := range routes {
		if r.Gw != nil {
			gateways[r.Gw.String()] = true
		}
	}
	if !gateways["203.0.113.1"] || !gateways["2001:db8::1"] || len(gateways) != 2 {
		t.Errorf("gateways are %v", gateways)
	}

	// Another configuration takes away what the first one gave. Kernel names are the first ones still.
	front.Addresses, front.Routes = []netip.Prefix{prefix("192.0.2.7/24")}, nil
	if err := apply(front); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(addressesOf(t, h, "front"), " "); got != "192.0.2.7/24" {
		t.Errorf("front has %s", got)
	}

	// What cannot be is refused, and tells what there is.
	err = apply(settings.Link{Name: "front", Kernel: "eth7"})
	if err == nil || !strings.Contains(err.Error(), "no interface eth7") || !strings.Contains(err.Error(), eth1.Attrs().HardwareAddr.String()) {
		t.Errorf("a missing interface: %v", err)
	}
	err = apply(settings.Link{Name: "x", Kernel: "eth1"}, settings.Link{Name: "y", MAC: eth1.Attrs().HardwareAddr})
	if err == nil || !strings.Contains(err.Error(), "are the same interface") {
		t.Errorf("one interface twice: %v", err)
	}
}
