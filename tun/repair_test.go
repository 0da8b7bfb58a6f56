package tun

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestTakenAwayIsPutBack: what others do to a host's network while the gateway runs.
func TestTakenAwayIsPutBack(t *testing.T) {
	s := newSite(t)
	d, r := s.install(t)
	defer d.Close()
	installed := s.state(t)
	flushRules := func() error {
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			rules, err := netlink.RuleList(family)
			if err != nil {
				return err
			}
			for i := range rules {
				if rules[i].Table == testTable {
					if err := netlink.RuleDel(&rules[i]); err != nil {
						return err
					}
				}
			}
		}
		return nil
	}
	flushTable := func() error {
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: testTable}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			for i := range routes {
				if err := netlink.RouteDel(&routes[i]); err != nil {
					return err
				}
			}
		}
		return nil
	}
	onLink := func(name string, f func(netlink.Link) error) func() error {
		return func() error {
			l, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			return f(l)
		}
	}
	for _, c := range []struct {
		name, kind string
		harm       func() error
	}{
		{"rules flushed", repairRule, flushRules},
		{"table flushed", repairRoute, flushTable},
		{"main table's blackhole gone", repairRoute, func() error { return netlink.RouteDel(r.nowhereRoutes()[1].Route) }},
		{"redirects on", repairSysctl, func() error { return sysctl("ipv4/conf/front/send_redirects", "1") }},
		{"ip_forward off", repairSysctl, func() error { return sysctl("ipv4/ip_forward", "0") }},
		{"forwarding of one interface off", repairSysctl, func() error { return sysctl("ipv4/conf/front/forwarding", "0") }},
		{"IPv6 forwarding off", repairSysctl, func() error { return sysctl("ipv6/conf/all/forwarding", "0") }},
		{"strict reverse path filter", repairSysctl, func() error { return sysctl("ipv4/conf/"+tunName+"/rp_filter", "1") }},
		{"TUN down", repairLink, onLink(tunName, netlink.LinkSetDown)},
		{"TUN's address gone", repairLink, onLink(tunName, func(l netlink.Link) error {
			return netlink.AddrDel(l, &netlink.Addr{IPNet: hostNet(dummyAddr())})
		})},
		{"route to the servers gone", repairRoute, onLink("back", func(l netlink.Link) error {
			_, dst, _ := net.ParseCIDR("10.20.0.0/24")
			return netlink.RouteDel(&netlink.Route{Dst: dst, LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK})
		})},
	} {
		before := r.Repairs()[c.kind]
		s.gw.run(c.harm)
		eventually(t, c.name+": everything is back", func() bool {
			return r.Repairs()[c.kind] > before && slices.Equal(installed, s.state(t))
		})
	}
	s.udpEcho(t, "10.20.0.11")
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestConnectedRouteLost: the kernel had a route to the servers' network when the
// gateway began, so none was added; then its address is removed.
func TestConnectedRouteLost(t *testing.T) {
	s := newSite(t)
	s.gw.run(func() error { return s.gw.addr("back", "10.20.0.2/24") })
	d, r := s.install(t)
	defer d.Close()
	s.gw.run(func() error {
		l, err := netlink.LinkByName("back")
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr("10.20.0.2/24")
		if err != nil {
			return err
		}
		return netlink.AddrDel(l, a)
	})
	eventually(t, "a route of ours leads to the servers", func() bool { return r.Repairs()[repairRoute] > 0 })
	s.udpEcho(t, "10.20.0.11")
}

// TestVirtualAddressOnKernel: it is told and left alone; it is not ours to remove.
func TestVirtualAddressOnKernel(t *testing.T) {
	s := newSite(t)
	d, r := s.install(t)
	defer d.Close()
	next := func() string {
		t.Helper()
		select {
		case f := <-r.Faults():
			return strings.Join(f, "; ")
		case <-time.After(deadline):
			t.Fatal("nothing was told")
		}
		return ""
	}
	for _, vip := range []string{"203.0.113.10/32", "2001:db8::10/128"} {
		s.gw.run(func() error { return s.gw.addr("front", vip) })
		want := "virtual address " + strings.Split(vip, "/")[0] + " is configured on interface front"
		if got := next(); !strings.HasPrefix(got, want) {
			t.Fatalf("told %q, want %q", got, want)
		}
		if n := r.Repairs()[repairAddress]; n == 0 {
			t.Fatal("the kernel takes it for its own")
		}
		s.gw.run(func() error { // it leads to the device again
			got, err := netlink.RouteGet(net.ParseIP(strings.Split(vip, "/")[0]))
			if err == nil && (len(got) != 1 || got[0].Table != testTable) {
				t.Errorf("%s leads to %v", vip, got)
			}
			return err
		})
		s.gw.run(func() error {
			l, err := netlink.LinkByName("front")
			if err != nil {
				return err
			}
			a, err := netlink.ParseAddr(vip)
			return errors.Join(err, netlink.AddrDel(l, a))
		})
		if got := next(); got != "" {
			t.Fatalf("told %q after it was removed", got)
		}
	}
}

// TestDefaultRouteLost: it is not ours to put back, and a network manager that starts
// anew is no fault.
func TestDefaultRouteLost(t *testing.T) {
	s := newSite(t)
	s.gw.run(func() error { return errors.Join(s.gw.via("0.0.0.0/0", "10.1.0.1"), s.gw.via("::/0", "fd01::1")) })
	d, r := s.install(t)
	defer d.Close()
	told := func() string {
		t.Helper()
		select {
		case f := <-r.Faults():
			return strings.Join(f, "; ")
		case <-time.After(deadline):
			t.Fatal("nothing was told")
		}
		return ""
	}
	eventually(t, "the routes are known", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.defaults.known[0].had && r.defaults.known[1].had
	})
	for _, c := range []struct{ gw, name string }{{"10.1.0.1", "IPv4"}, {"fd01::1", "IPv6"}} {
		dst := "0.0.0.0/0"
		if c.name == "IPv6" {
			dst = "::/0"
		}
		route := &netlink.Route{Dst: ipNet(netip.MustParsePrefix(dst)), Gw: net.ParseIP(c.gw)}
		s.gw.run(func() error {
			return errors.Join(netlink.RouteDel(route), netlink.RouteAdd(route), netlink.RouteDel(route))
		})
		if got := told(); !strings.Contains(got, c.name+" default route through front is gone") {
			t.Fatalf("told %q", got)
		}
		s.gw.run(func() error { return netlink.RouteAdd(route) })
		if got := told(); got != "" {
			t.Fatalf("told %q after it was back", got)
		}
	}
}

// TestDeletedDevice: nothing can bring the device back, so whoever runs must end.
func TestDeletedDevice(t *testing.T) {
	s := newSite(t)
	d, r := s.install(t)
	defer d.Close()
	s.gw.run(func() error {
		l, err := netlink.LinkByName(tunName)
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	})
	select {
	case <-r.Gone():
	case <-time.After(deadline):
		t.Fatal("nobody noticed that the device was deleted")
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestStruggle: who undoes each repair is not fought for ever in silence.
func TestStruggle(t *testing.T) {
	s := newSite(t)
	d, r := s.install(t)
	defer d.Close()
	for told := false; !told; {
		before := r.Repairs()[repairRule] // the repair may come before the next line does
		s.gw.run(func() error {
			rules, err := netlink.RuleList(unix.AF_INET)
			if err != nil {
				return err
			}
			for i := range rules {
				if rules[i].Table == testTable {
					_ = netlink.RuleDel(&rules[i]) // it may be gone already
				}
			}
			return nil
		})
		eventually(t, "a repair", func() bool { return r.Repairs()[repairRule] > before })
		select {
		case f := <-r.Faults():
			told = len(f) > 0 && strings.Contains(f[0], "somebody keeps changing")
		default:
		}
	}
}
