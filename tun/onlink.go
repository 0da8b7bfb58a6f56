package tun

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// OnLink lists the networks that are reached through the interfaces without a next hop: each
// address of theirs that is sent to costs the kernel a neighbour entry.
func OnLink(interfaces ...string) ([]netip.Prefix, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("list networks: open netlink socket: %w", err)
	}
	defer h.Close()
	var list []netip.Prefix
	for _, name := range interfaces {
		link, err := h.LinkByName(name)
		if err != nil {
			return nil, fmt.Errorf("list networks of interface %q: %w", name, err)
		}
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			routes, err := h.RouteList(link, family)
			if err != nil {
				return nil, fmt.Errorf("list networks of interface %q: %w", name, err)
			}
			for _, r := range routes {
				if r.Dst == nil || r.Gw != nil || len(r.MultiPath) > 0 {
					continue
				}
				ones, _ := r.Dst.Mask.Size()
				if a, ok := netip.AddrFromSlice(r.Dst.IP); ok {
					list = append(list, netip.PrefixFrom(a.Unmap(), ones))
				}
			}
		}
	}
	return list, nil
}
