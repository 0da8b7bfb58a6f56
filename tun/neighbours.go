package tun

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// userHZ is the unit in which the kernel tells times to programs, in every one that Go runs on.
const userHZ = time.Second / 100

// ForgetUnresolved makes the kernel forget the neighbours on an interface that it has asked
// for in vain, or has waited for at least so long, so that it asks at once for whom the next
// packet is. It asks again by itself only once a second (RFC 4861, 10: RETRANS_TIMER; of ARP
// as well): while a network was away it has asked for everybody, and so long connections
// would stand still after its return.
//
// The few packets that wait for an answer are lost, and their senders get an ICMP error, host
// unreachable, as when the kernel gives up (RFC 1812, 5.3.3): a connect() of this host's, or of
// a host that it routes for, fails then. So it is not to be repeated faster than neighbours answer.
func ForgetUnresolved(ifname string, waited time.Duration) error {
	link, err := netlink.LinkByName(ifname)
	if err != nil {
		return fmt.Errorf("find interface %q: %w", ifname, err)
	}
	var errs []error
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		list, err := netlink.NeighList(link.Attrs().Index, family)
		if err != nil {
			errs = append(errs, fmt.Errorf("list neighbours on %q: %w", ifname, err))
			continue
		}
		for i := range list {
			waits := list[i].State&unix.NUD_INCOMPLETE != 0 && time.Duration(list[i].Updated)*userHZ >= waited
			if !waits && list[i].State&unix.NUD_FAILED == 0 {
				continue
			}
			if err := netlink.NeighDel(&list[i]); err != nil && !errors.Is(err, unix.ENOENT) { // gone or found meanwhile
				errs = append(errs, fmt.Errorf("forget neighbour %s on %q: %w", list[i].IP, ifname, err))
			}
		}
	}
	return errors.Join(errs...)
}
