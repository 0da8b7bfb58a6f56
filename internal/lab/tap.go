package lab

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// Tap makes a tap device for a virtual machine that runs on this host, and joins it by a bridge with
// an interface of the host, which then belongs to the machine: the host itself neither speaks nor
// listens on it any more. It returns the device's name. Everything goes with the host.
func (h *Host) Tap(ifname string) (string, error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("host %q: tap for %q: %w", h.name, ifname, err) }
	below, err := h.space.nl.LinkByName(ifname)
	if err != nil {
		return fail(err)
	}
	addrs, err := h.space.nl.AddrList(below, netlink.FAMILY_ALL)
	if err != nil {
		return fail(err)
	}
	for _, a := range addrs {
		if err := h.space.nl.AddrDel(below, &a); err != nil {
			return fail(fmt.Errorf("remove address %v: %w", a.IPNet, err))
		}
	}
	tap := &netlink.Tuntap{LinkAttrs: netlink.NewLinkAttrs(), Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR}
	tap.Name = "t-" + ifname
	// The device is made by opening /dev/net/tun, in the namespace of the thread that does it.
	if err := h.Do(func() error { return netlink.LinkAdd(tap) }); err != nil {
		return fail(fmt.Errorf("create: %w", err))
	}
	snooping := false // without a querier it would cut off IPv6 neighbour discovery
	bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs(), MulticastSnooping: &snooping}
	bridge.Name = "b-" + ifname
	if err := h.space.nl.LinkAdd(bridge); err != nil {
		return fail(fmt.Errorf("create bridge: %w", err))
	}
	device, err := h.space.nl.LinkByName(tap.Name)
	if err != nil {
		return fail(err)
	}
	for _, l := range []netlink.Link{bridge, below, device} {
		// Nothing of the host's own may be heard on the machine's network.
		if err := h.Sysctl("net/ipv6/conf/"+l.Attrs().Name+"/disable_ipv6", "1"); err != nil {
			return fail(err)
		}
		if l != netlink.Link(bridge) {
			if err := h.space.nl.LinkSetMaster(l, bridge); err != nil {
				return fail(fmt.Errorf("add %q to bridge: %w", l.Attrs().Name, err))
			}
		}
		if err := h.space.nl.LinkSetUp(l); err != nil {
			return fail(fmt.Errorf("set %q up: %w", l.Attrs().Name, err))
		}
	}
	return tap.Name, nil
}
