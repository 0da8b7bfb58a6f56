package tun

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// defaultPatience is how long a default route may be missing: a network manager that
// starts anew takes it away and puts it back.
const defaultPatience = 2 * time.Second

// defaults follows this host's default routes through the front network. They are not
// ours, but without them clients beyond that network are not answered.
type defaults struct {
	changed atomic.Bool // one came or went
	known   [2]knownDefault
}

type knownDefault struct {
	had  bool
	gone time.Time // since when it is missing; zero: it is not
}

// faults looks at the routes only when one has changed, or is missing: there may be a
// million others to be read through. has asks the kernel, see hasDefault.
func (d *defaults) faults(has func(v6 bool) (bool, error), front string, now time.Time) (faults []string, err error) {
	look := d.changed.Swap(false)
	for i := range d.known {
		k := &d.known[i]
		if !look && k.gone.IsZero() {
			continue
		}
		found, lerr := has(i == 1)
		if lerr != nil {
			d.changed.Store(true)
			if !errors.Is(lerr, netlink.ErrDumpInterrupted) { // others change routes: look again
				err = errors.Join(err, lerr)
			}
			continue
		}
		switch {
		case found:
			k.had, k.gone = true, time.Time{}
		case !k.had:
		case k.gone.IsZero():
			k.gone = now
		case now.Sub(k.gone) >= defaultPatience:
			faults = append(faults, fmt.Sprintf("the IPv%d default route through %s is gone: clients beyond that network are not answered (ip -%[1]d route)", []int{4, 6}[i], front))
		}
	}
	return faults, err
}

func hasDefault(nl *netlink.Handle, front string, v6 bool) (bool, error) {
	l, err := nl.LinkByName(front)
	if err != nil {
		return false, nil // told by whoever watches the carrier
	}
	index := l.Attrs().Index
	family := netlink.FAMILY_V4
	if v6 {
		family = netlink.FAMILY_V6
	}
	routes, err := nl.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return false, fmt.Errorf("list default routes: %w", err)
	}
	for i := range routes {
		rt := &routes[i]
		if rt.Type == unix.RTN_UNICAST && (rt.LinkIndex == index ||
			slices.ContainsFunc(rt.MultiPath, func(h *netlink.NexthopInfo) bool { return h.LinkIndex == index })) {
			return true, nil
		}
	}
	return false, err // interrupted: perhaps there is one after all
}
