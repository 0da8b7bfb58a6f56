package tun

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// addRules sends protected packets to the policy table: whatever goes to a
// virtual address, and what the servers' service ports answer.
func (r *Routes) addRules() error {
	seen := make(map[netip.Addr]bool)
	for _, a := range r.cfg.Virtual {
		a = a.Unmap()
		if seen[a] {
			continue
		}
		seen[a] = true
		rule := r.newRule(a)
		rule.Dst = hostNet(a)
		if err := r.addRule(rule); err != nil {
			return fmt.Errorf("add rule to %s: %w", a, err)
		}
	}
	seenServer := make(map[netip.AddrPort]bool)
	for _, s := range r.cfg.Servers {
		s = netip.AddrPortFrom(s.Addr().Unmap(), s.Port())
		if seenServer[s] {
			continue
		}
		seenServer[s] = true
		rule := r.newRule(s.Addr())
		rule.Src = hostNet(s.Addr())
		// Bound to the back network: what the TUN device itself or another
		// interface brings with that source is not a server's answer.
		rule.IifName = r.cfg.Back
		rule.IPProto = unix.IPPROTO_TCP
		rule.Sport = netlink.NewRulePortRange(s.Port(), s.Port())
		if err := r.addRule(rule); err != nil {
			return fmt.Errorf("add rule from %s iif %s: %w", s, r.cfg.Back, err)
		}
	}
	return nil
}

func (r *Routes) newRule(a netip.Addr) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family = netlink.FAMILY_V4
	if a.Is6() {
		rule.Family = netlink.FAMILY_V6
	}
	rule.Table = r.cfg.Table
	rule.Priority = r.cfg.RulePriority
	rule.Protocol = routeProtocol
	return rule
}

func (r *Routes) addRule(rule *netlink.Rule) error {
	if err := r.nl.RuleAdd(rule); err != nil {
		return err
	}
	r.rules = append(r.rules, rule)
	return nil
}

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
	for i := range rules {
		table := rules[i].Table
		if rules[i].Protocol != routeProtocol || tables[table] {
			continue
		}
		routes, err := r.listTable(family, table)
		if err != nil {
			return nil, err
		}
		tables[table] = !slices.ContainsFunc(routes, func(rt netlink.Route) bool { return rt.Type == unix.RTN_UNICAST })
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
		case rule.Table == r.cfg.Table:
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
			case table == r.cfg.Table:
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

func (r *Routes) deleteLeftover(rt *netlink.Route) error {
	if err := r.nl.RouteDel(rt); err != nil && !gone(err) {
		return fmt.Errorf("delete leftover route %v: %w", rt, err)
	}
	return nil
}

func (r *Routes) foreign(what string) error {
	return fmt.Errorf("routing table %d is in use by somebody else (%s); choose another table number", r.cfg.Table, what)
}
