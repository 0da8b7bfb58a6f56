package tun

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// removeLeftovers deletes what a killed predecessor left: rules, their tables'
// routes, and gateway routes on the back interface, all recognised by
// routeProtocol. Whatever else is in our table belongs to somebody: refused
// rather than flushed.
func (r *Routes) removeLeftovers(backIndex int) error {
	families := []int{netlink.FAMILY_V4}
	if haveIPv6() {
		families = append(families, netlink.FAMILY_V6)
	}
	removed := 0
	for _, family := range families {
		rules, err := r.nl.RuleList(family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return fmt.Errorf("list rules: %w", err)
		}
		tables, err := r.deadTables(family, rules)
		if err != nil {
			return err
		}
		n, err := r.removeLeftoverRules(rules, tables)
		removed += n
		if err != nil {
			return err
		}
		n, err = r.removeLeftoverRoutes(family, tables, backIndex)
		removed += n
		if err != nil {
			return err
		}
		for table, kind := range map[int]int{unix.RT_TABLE_LOCAL: unix.RTN_THROW, unix.RT_TABLE_MAIN: unix.RTN_BLACKHOLE} {
			n, err = r.removeLeftoverHosts(family, table, kind, rules, tables)
			removed += n
			if err != nil {
				return err
			}
		}
	}
	if removed > 0 {
		r.log.Info("removed routes and rules left by a predecessor", "count", removed)
	}
	return nil
}

// deadTables are our own table and those of predecessors that were configured
// with another one: rules of ours lead there, but no TUN route is left in it.
// A table with a TUN route serves another gateway that is alive.
func (r *Routes) deadTables(family int, rules []netlink.Rule) (map[int]bool, error) {
	tables := map[int]bool{r.cfg.Table: true}
	if r.ownTable(r.cfg.Table + tunnelTable) {
		tables[r.cfg.Table+tunnelTable] = true
	}
	for i := range rules {
		table := rules[i].Table
		if rules[i].Protocol != routeProtocol || tables[table] {
			continue
		}
		routes, err := r.listTable(family, table)
		if err != nil {
			return nil, err
		}
		tables[table] = !slices.ContainsFunc(routes, func(rt netlink.Route) bool { return rt.Type == unix.RTN_UNICAST && len(rt.Gw) == 0 })
	}
	return tables, nil
}

func (r *Routes) listTable(family, table int) ([]netlink.Route, error) {
	routes, err := r.nl.RouteListFiltered(family, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list routes of table %d: %w", table, err)
	}
	return routes, nil
}

func (r *Routes) removeLeftoverRules(rules []netlink.Rule, tables map[int]bool) (int, error) {
	n := 0
	for i := range rules {
		rule := &rules[i]
		switch {
		case !tables[rule.Table]:
			continue
		case rule.Protocol == routeProtocol:
		case r.ownTable(rule.Table):
			return n, r.foreign(fmt.Sprint(rule))
		default:
			continue
		}
		if err := r.nl.RuleDel(rule); err != nil && !gone(err) {
			return n, fmt.Errorf("delete leftover rule %v: %w", rule, err)
		}
		n++
	}
	return n, nil
}

func (r *Routes) removeLeftoverRoutes(family int, tables map[int]bool, backIndex int) (int, error) {
	n := 0
	for table, dead := range tables {
		if !dead {
			continue
		}
		routes, err := r.listTable(family, table)
		if err != nil {
			return n, err
		}
		for i := range routes {
			switch {
			case routes[i].Protocol == routeProtocol:
			case r.ownTable(table):
				return n, r.foreign(fmt.Sprint(routes[i]))
			default:
				continue
			}
			if err := r.deleteLeftover(&routes[i]); err != nil {
				return n, err
			}
			n++
		}
	}
	routes, err := r.listTable(family, unix.RT_TABLE_MAIN)
	if err != nil {
		return n, err
	}
	for i := range routes {
		if routes[i].Protocol != routeProtocol || routes[i].LinkIndex != backIndex {
			continue
		}
		if err := r.deleteLeftover(&routes[i]); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// removeLeftoverHosts deletes a table's entries for virtual addresses that no rule sends
// to a gateway that is alive.
func (r *Routes) removeLeftoverHosts(family, table, kind int, rules []netlink.Rule, dead map[int]bool) (int, error) {
	routes, err := r.listTable(family, table)
	if err != nil {
		return 0, err
	}
	n := 0
	for i := range routes {
		rt := &routes[i]
		if rt.Protocol != routeProtocol || rt.Type != kind {
			continue
		}
		if slices.ContainsFunc(rules, func(rule netlink.Rule) bool {
			return rule.Protocol == routeProtocol && !dead[rule.Table] && prefixKey(rule.Dst) == prefixKey(rt.Dst)
		}) {
			continue
		}
		if err := r.deleteLeftover(rt); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func (r *Routes) deleteLeftover(rt *netlink.Route) error {
	if err := r.nl.RouteDel(rt); err != nil && !gone(err) {
		return fmt.Errorf("delete leftover route %v: %w", rt, err)
	}
	return nil
}

func (r *Routes) foreign(what string) error {
	return fmt.Errorf("routing table %d is in use by somebody else (%s); choose another table number", r.cfg.Table, what)
}
