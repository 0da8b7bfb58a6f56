package tun

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ForgetUnresolved makes the kernel forget which neighbours it has asked for in vain on
// these interfaces, so that it asks at once for whom the next packet is. It asks again by
// itself only once a second (RFC 4861, 10: RETRANS_TIMER; of ARP as well): while a network
// was away it has asked for everybody, and so long connections would stand still after
// its return. The few packets that wait for an answer are lost.
func ForgetUnresolved(ifnames ...string) error {
	var errs []error
	for _, name := range ifnames {
		link, err := netlink.LinkByName(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("find interface %q: %w", name, err))
			continue
		}
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			list, err := netlink.NeighList(link.Attrs().Index, family)
			if err != nil {
				errs = append(errs, fmt.Errorf("list neighbours on %q: %w", name, err))
				continue
			}
			for i := range list {
				if list[i].State&(unix.NUD_INCOMPLETE|unix.NUD_FAILED) == 0 {
					continue
				}
				if err := netlink.NeighDel(&list[i]); err != nil && !errors.Is(err, unix.ENOENT) { // gone or found meanwhile
					errs = append(errs, fmt.Errorf("forget neighbour %s on %q: %w", list[i].IP, name, err))
				}
			}
		}
	}
	return errors.Join(errs...)
}
