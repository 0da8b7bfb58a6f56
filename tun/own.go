package tun

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// ownTries bounds how often addresses that change meanwhile are listed again.
const ownTries = 5

// OwnAddresses are those that the kernel takes for its own on any interface, with the broadcast and anycast
// addresses of their networks: what is to one of them has arrived, whatever a rule says (the local table comes first),
// and what says that it is from one of them has not been sent by anybody else. It acts on the caller's network namespace.
func OwnAddresses() ([]netip.Addr, error) {
	var list []netlink.Addr
	var err error = netlink.ErrDumpInterrupted
	for try := 0; try < ownTries && errors.Is(err, netlink.ErrDumpInterrupted); try++ {
		list, err = netlink.AddrList(nil, netlink.FAMILY_ALL)
	}
	if err != nil {
		return nil, fmt.Errorf("list this machine's addresses: %w", err)
	}
	var own []netip.Addr
	for _, a := range list {
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok {
			continue
		}
		ip = ip.Unmap()
		ones, _ := a.Mask.Size()
		own = append(own, ip, netip.PrefixFrom(ip, ones).Masked().Addr())
		if b, ok := netip.AddrFromSlice(a.Broadcast); ok {
			own = append(own, b.Unmap())
		}
	}
	return own, nil
}
