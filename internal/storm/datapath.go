package storm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lockstep/internal/lab"
	"lockstep/internal/pair"
)

// Lockstep's device, routing table and rules, as ARCHITECTURE.md names them.
const (
	tunName  = "lockstep0"
	table    = 7400
	priority = 7400
)

func nothing(context.Context, *storm) error { return nil }

func families() []int { return []int{netlink.FAMILY_V4, netlink.FAMILY_V6} }

func rulesOf(h *lab.Host) (list []netlink.Rule, err error) {
	for _, family := range families() {
		rules, err := h.Netlink().RuleList(family)
		if err != nil {
			return nil, fmt.Errorf("list rules: %w", err)
		}
		for _, r := range rules {
			if r.Priority == priority {
				list = append(list, r)
			}
		}
	}
	return list, nil
}

func routesOf(h *lab.Host) (list []netlink.Route, err error) {
	for _, family := range families() {
		routes, err := h.Netlink().RouteListFiltered(family, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		list = append(list, routes...)
	}
	return list, nil
}

// flushed takes all of something away from an appliance, which must have as many afterwards.
func flushed[T any](rng *rand.Rand, name string, list func(*lab.Host) ([]T, error), remove func(*lab.Host, *T) error) *fault {
	target := appliance2(rng)
	var host *lab.Host
	had := 0
	return &fault{
		What: name + " of " + target, Length: length(rng), heal: nothing, // the appliance's business
		inject: func(_ context.Context, s *storm) error {
			host = s.on(target).Host
			all, err := list(host)
			if err != nil {
				return err
			}
			had = len(all)
			for i := range all {
				// It may be gone, or come back, while we are at it.
				if err := remove(host, &all[i]); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) {
					return fmt.Errorf("take away %s: %w", name, err)
				}
			}
			return nil
		},
		mended: func(*storm) (string, error) {
			all, err := list(host)
			if err != nil || len(all) >= had {
				return "", err
			}
			return fmt.Sprintf("%d of %d %s on %s", had-len(all), had, name, host.Name()), nil
		},
	}
}

func drawRules(rng *rand.Rand, _ *options) *fault {
	return flushed(rng, "rules", rulesOf, func(h *lab.Host, r *netlink.Rule) error { return h.Netlink().RuleDel(r) })
}

func drawRoutes(rng *rand.Rand, _ *options) *fault {
	return flushed(rng, "routes", routesOf, func(h *lab.Host, r *netlink.Route) error { return h.Netlink().RouteDel(r) })
}

func drawForward(rng *rand.Rand, o *options) *fault {
	target, v4 := appliance2(rng), rng.IntN(2) == 0 || o.only4
	name, key := "forwarding of IPv6", "net/ipv6/conf/all/forwarding"
	if v4 && !o.only6 {
		name, key = "forwarding of IPv4", "net/ipv4/ip_forward"
	}
	var host *lab.Host
	return &fault{
		What: name + " on " + target, Length: length(rng), heal: nothing,
		inject: func(_ context.Context, s *storm) error {
			host = s.on(target).Host
			return host.Sysctl(key, "0")
		},
		mended: func(*storm) (string, error) {
			v, err := host.ReadSysctl(key)
			if err != nil || v == "1" {
				return "", err
			}
			return name + " on " + host.Name(), host.Sysctl(key, "1")
		},
	}
}

func drawTUN(rng *rand.Rand, _ *options) *fault {
	target := appliance2(rng)
	if rng.IntN(2) == 0 {
		return tunDeleted(rng, target)
	}
	var host *lab.Host
	find := func() (netlink.Link, error) {
		link, err := host.Netlink().LinkByName(tunName)
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", tunName, err)
		}
		return link, nil
	}
	return &fault{
		What: "tun of " + target + " down", Length: length(rng), heal: nothing,
		inject: func(_ context.Context, s *storm) error {
			host = s.on(target).Host
			link, err := find()
			if err != nil {
				return err
			}
			return host.Netlink().LinkSetDown(link)
		},
		mended: func(*storm) (string, error) {
			link, err := find()
			if err != nil || link.Attrs().Flags&unix.IFF_UP != 0 {
				return "", err
			}
			return fmt.Sprintf("%s of %s", tunName, host.Name()), nil
		},
	}
}

// tunDeleted: the process cannot go on, and must end so that the other takes over.
func tunDeleted(rng *rand.Rand, target string) *fault {
	var victim *pair.Node
	return &fault{
		What: "tun of " + target + " deleted", Length: time.Second + length(rng),
		inject: func(_ context.Context, s *storm) error {
			victim = s.on(target)
			nl := victim.Host.Netlink()
			link, err := nl.LinkByName(tunName)
			if err != nil {
				return fmt.Errorf("find %s: %w", tunName, err)
			}
			victim.ExpectEnd()
			return nl.LinkDel(link)
		},
		heal: func(ctx context.Context, s *storm) error {
			if victim.Process().Running() {
				s.find(finding{Kind: findAlive, Detail: fmt.Sprintf("%s lives on without %s", victim.Name, tunName)})
				_ = victim.Process().Kill()
			}
			return victim.Start(ctx)
		},
	}
}
