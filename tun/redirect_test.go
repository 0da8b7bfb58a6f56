package tun

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
)

// unruled is a site on whose front network the virtual addresses lie, at a moment at
// which somebody has flushed the rules and nobody has put them back yet.
func unruled(t *testing.T) (*site, *Routes) {
	t.Helper()
	s := newSite(t)
	s.gw.run(func() error {
		l, err := netlink.LinkByName("front")
		if err != nil {
			return err
		}
		for _, dst := range []string{"203.0.113.0/24", "2001:db8::/64"} {
			to := ipNet(netip.MustParsePrefix(dst))
			err = errors.Join(err, netlink.RouteAdd(&netlink.Route{Dst: to, LinkIndex: l.Attrs().Index, Scope: linkScope(to)}))
		}
		return err
	})
	_, r := s.install(t)
	r.cancel()
	r.wg.Wait()
	s.gw.run(func() error {
		var err error
		for _, rule := range r.desired.rules {
			err = errors.Join(err, netlink.RuleDel(rule))
		}
		return err
	})
	return s, r
}

var toVirtual = []struct{ client, vip, gw string }{
	{"10.1.0.1", "203.0.113.10", "10.1.0.254"},
	{"fd01::1", "2001:db8::10", "fd01::fe"},
}

// While the rules are gone, what is for a virtual address is neither forwarded nor
// answered, by a redirect least of all.
func TestNoWayOutWithoutRules(t *testing.T) {
	s, _ := unruled(t)
	for _, c := range toVirtual {
		s.silent(t, s.client, c.client, c.vip, 40000, 80, c.gw)
	}
	// Whoever forwards to a neighbour has an entry for it, if only of a question.
	list := in(s.gw, func() ([]netlink.Neigh, error) { return netlink.NeighList(0, netlink.FAMILY_ALL) })
	for _, n := range list {
		for _, c := range toVirtual {
			if n.IP.Equal(net.ParseIP(c.vip)) {
				t.Errorf("the kernel forwards to %s: %v", c.vip, n)
			}
		}
	}
}

// With the routes gone as well, and the sysctls set back, the kernel forwards to the front
// network; its redirects do not get out, and are counted.
func TestRedirectsDoNotLeave(t *testing.T) {
	s, r := unruled(t)
	s.gw.run(func() error {
		var err error
		for _, w := range r.nowhereRoutes() {
			err = errors.Join(err, netlink.RouteDel(w.Route))
		}
		return errors.Join(err, sysctl("ipv4/conf/all/send_redirects", "1"))
	})
	g := s.guard(t, guardConfig())
	for i, c := range toVirtual {
		s.silent(t, s.client, c.client, c.vip, 40000, 80, c.gw)
		eventually(t, "a refused redirect to "+c.client, func() bool { return g.Refused()[refusedRedirect] == uint64(i+1) })
	}
}

// Without the packet filter the sysctl is enough for IPv4.
func TestNoRedirectsOfIPv4(t *testing.T) {
	s, r := unruled(t)
	s.gw.run(func() error {
		var err error
		for _, w := range r.nowhereRoutes() {
			err = errors.Join(err, netlink.RouteDel(w.Route))
		}
		return err
	})
	s.silent(t, s.client, "10.1.0.1", "203.0.113.10", 40000, 80, "10.1.0.254")
}
