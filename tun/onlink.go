package tun

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// OnLink lists the networks that are reached through the interfaces without a next hop: each
// address of theirs that is sent to costs the kernel a neighbour entry. They are those of the
// interfaces' addresses and of gateways, ours on the back network. The routing table is not
// asked: there may be a million others in it.
func OnLink(gateways []netip.Prefix, interfaces ...string) ([]netip.Prefix, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("list networks: open netlink socket: %w", err)
	}
	defer h.Close()
	var list []netip.Prefix
	for _, p := range gateways {
		list = append(list, netip.PrefixFrom(p.Addr().Unmap(), p.Bits()).Masked())
	}
	for _, name := range interfaces {
		link, err := h.LinkByName(name)
		if err != nil {
			return nil, fmt.Errorf("list networks of interface %q: %w", name, err)
		}
		addrs, err := h.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return nil, fmt.Errorf("list networks of interface %q: %w", name, err)
		}
		for _, a := range addrs {
			n := a.IPNet
			if a.Peer != nil { // the other end of a point-to-point link
				n = a.Peer
			}
			if n == nil {
				continue
			}
			ones, _ := n.Mask.Size()
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				list = append(list, netip.PrefixFrom(ip.Unmap(), ones).Masked())
			}
		}
	}
	return list, nil
}
