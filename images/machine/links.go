package machine

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lockstep/images/settings"
)

// applyLinks gives the machine's interfaces their names, addresses and routes. It may be repeated,
// with the same links or others: what is not asked for any more goes.
func applyLinks(links []settings.Link) error {
	all, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	if lo, err := netlink.LinkByName("lo"); err == nil {
		_ = netlink.LinkSetUp(lo)
	}
	found, err := match(links, all)
	if err != nil {
		return err
	}
	if err := rename(links, found); err != nil {
		return err
	}
	for i, l := range links {
		if err := applyLink(l, found[i]); err != nil {
			return fmt.Errorf("link %s: %w", l.Name, err)
		}
	}
	return nil
}

// kernelName is the first name that the kernel gave an interface. It stays behind as an alternative
// name when the interface is renamed here.
func kernelName(l netlink.Link) string {
	for _, alt := range l.Attrs().AltNames {
		if name, ok := strings.CutPrefix(alt, altPrefix); ok {
			return name
		}
	}
	return l.Attrs().Name
}

// altPrefix marks the alternative name.
const altPrefix = "kernel-"

// match finds the interface that each link means.
func match(links []settings.Link, all []netlink.Link) ([]netlink.Link, error) {
	found := make([]netlink.Link, len(links))
	for i, want := range links {
		for _, have := range all {
			if is(have, want) {
				found[i] = have
				break
			}
		}
		if found[i] == nil {
			return nil, fmt.Errorf("link %s: this machine has no interface %s (it has %s)", want.Name, wanted(want), inventory(all))
		}
		if j := slices.IndexFunc(found[:i], func(l netlink.Link) bool { return l != nil && l.Attrs().Index == found[i].Attrs().Index }); j >= 0 {
			return nil, fmt.Errorf("links %s and %s are the same interface, %s", links[j].Name, want.Name, found[i].Attrs().HardwareAddr)
		}
	}
	return found, nil
}

// is reports whether an interface is the one that a link means.
func is(have netlink.Link, want settings.Link) bool {
	if have.Attrs().Flags&net.FlagLoopback != 0 {
		return false
	}
	if want.MAC != nil {
		return bytes.Equal(want.MAC, have.Attrs().HardwareAddr)
	}
	return want.Kernel == kernelName(have)
}

func wanted(l settings.Link) string {
	if l.MAC != nil {
		return "with the MAC " + l.MAC.String()
	}
	return l.Kernel
}

// inventory lists what an operator may choose from.
func inventory(all []netlink.Link) string {
	var have []string
	for _, l := range all {
		if l.Attrs().Flags&net.FlagLoopback == 0 {
			have = append(have, fmt.Sprintf("%s %s", kernelName(l), l.Attrs().HardwareAddr))
		}
	}
	if have == nil {
		return "none"
	}
	return strings.Join(have, ", ")
}

// rename goes over names that nobody has, so that two interfaces can change theirs.
func rename(links []settings.Link, found []netlink.Link) error {
	for i, l := range links {
		attrs := found[i].Attrs()
		if attrs.Name == l.Name {
			continue
		}
		if len(attrs.AltNames) == 0 {
			if err := netlink.LinkAddAltName(found[i], altPrefix+attrs.Name); err != nil {
				return fmt.Errorf("link %s: keep the name %s: %w", l.Name, attrs.Name, err)
			}
		}
		if err := netlink.LinkSetDown(found[i]); err != nil {
			return fmt.Errorf("link %s: set down: %w", l.Name, err)
		}
		if err := netlink.LinkSetName(found[i], fmt.Sprintf("link-%d", i)); err != nil {
			return fmt.Errorf("link %s: rename %s: %w", l.Name, attrs.Name, err)
		}
	}
	for i, l := range links {
		if found[i].Attrs().Name == l.Name {
			continue
		}
		if err := netlink.LinkSetName(found[i], l.Name); err != nil {
			return fmt.Errorf("link %s: rename %s: %w", l.Name, found[i].Attrs().Name, err)
		}
	}
	return nil
}

func applyLink(l settings.Link, link netlink.Link) error {
	if l.MTU != 0 {
		if err := netlink.LinkSetMTU(link, l.MTU); err != nil {
			return fmt.Errorf("set MTU %d: %w", l.MTU, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	if err := removeOthers(l, link); err != nil {
		return err
	}
	for _, p := range l.Addresses {
		if err := netlink.AddrReplace(link, address(p)); err != nil {
			return fmt.Errorf("address %v: %w", p, err)
		}
	}
	for _, r := range l.Routes {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r.To), Gw: r.Via.AsSlice()}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("route to %v via %v: %w", r.To, r.Via, err)
		}
	}
	return nil
}

// removeOthers takes away the addresses, and with them the routes, of an earlier configuration.
func removeOthers(l settings.Link, link netlink.Link) error {
	have, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range have {
		ones, _ := a.Mask.Size()
		ip, _ := netip.AddrFromSlice(a.IP)
		if a.Scope == unix.RT_SCOPE_LINK || slices.Contains(l.Addresses, netip.PrefixFrom(ip.Unmap(), ones)) {
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil {
			return fmt.Errorf("remove address %v: %w", a.IPNet, err)
		}
	}
	return nil
}

func address(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
