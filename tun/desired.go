package tun

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// desired is what the kernel must have for the data path, declared in one place:
// InstallRoutes puts it in, in this order, a look puts back what is missing of it, and
// Close takes it out again. (Beside it: the TUN link up, with its address, and the tunnel.)
type desired struct {
	sysctls sysctlSet
	routes  []wantedRoute
	// prefixes are the servers' networks, reached without a next hop.
	prefixes []wantedPrefix
	rules    []*netlink.Rule
}

// wantedRoute is a route of the policy table, or one that leads there.
type wantedRoute struct {
	*netlink.Route
	toTUN    bool // and not nowhere
	toTunnel bool // it goes when the tunnel does
}

// wantedPrefix is a network that must be reached through the back interface: by a
// route that the kernel has for an address there, or by ours.
type wantedPrefix struct {
	*netlink.Route
	// server lies in the network, if it is valid; where it is reached tells whether a
	// route is missing without reading all that there are.
	server netip.Addr
	ours   bool // the kernel had none when we began, or lost it
}

// want declares everything. Table first, rules last: at no moment does a rule lead to
// an empty table, from where a packet would fall through to the main one.
func (r *Routes) want(v6 bool) error {
	forwarding, err := r.forwardingSysctls(v6)
	if err != nil {
		return err
	}
	r.desired.sysctls.wanted = slices.Concat(r.tunSysctls(v6), forwarding, r.redirectSysctls(), roomSysctls(r.cfg.Connections))
	r.desired.routes = slices.Concat(r.throwRoutes(), r.nowhereRoutes(), r.tableRoutes(v6), r.tunnelRoutes(v6))
	r.desired.prefixes = r.gatewayPrefixes()
	segments := r.wantedRules()
	r.desired.rules = slices.Concat(segments, r.tunnelRules(segments), r.localErrorRules())
	return nil
}

// tunSysctls prepares the TUN interface; set while its link is down, so that IPv6
// never gets to send anything on it. They are not restored: they go with the device,
// and restoring them on a live one would make the kernel talk.
func (r *Routes) tunSysctls(v6 bool) []*wantedSysctl {
	// This host's own ICMP errors come back, see localErrorRules.
	own := &wantedSysctl{key: ifaceKey("ipv4", r.cfg.TUN, "accept_local"), value: "1", stays: true}
	return append(quietSysctls(r.cfg.TUN, v6), own)
}

// quietSysctls are those of an interface that packets of others come out of, and on which
// the kernel shall say nothing.
func quietSysctls(name string, v6 bool) []*wantedSysctl {
	stay := func(family, key, value string) *wantedSysctl {
		return &wantedSysctl{key: ifaceKey(family, name, key), value: value, stays: true}
	}
	// Segments come out of the TUN device with clients' addresses, whose route leads
	// elsewhere: strict reverse path filtering would drop them. The kernel uses
	// max(conf.all, conf.IFACE), so 2 (loose) wins over a strict default.
	list := []*wantedSysctl{
		stay("ipv4", "rp_filter", "2"),
	}
	if v6 {
		list = append(list,
			stay("ipv6", "disable_ipv6", "0"), // 1 would also drop what we write
			stay("ipv6", "addr_gen_mode", "1"),
			stay("ipv6", "accept_ra", "0"),
			stay("ipv6", "autoconf", "0"),
			stay("ipv6", "router_solicitations", "0"),
		)
	}
	return list
}

// forwardingSysctls make the kernel a router. A host that turns router forgets the
// default routes it learnt from router advertisements unless accept_ra is 2
// (Documentation/networking/ip-sysctl), so interfaces that listened before go on
// listening.
func (r *Routes) forwardingSysctls(v6 bool) ([]*wantedSysctl, error) {
	list := []*wantedSysctl{{key: "ipv4/ip_forward", value: "1"}}
	if v6 {
		more, err := r.forwarding6()
		if err != nil {
			return nil, err
		}
		list = append(list, more...)
	}
	// An interface of its own may have been left out, or be left out later.
	for _, name := range []string{r.cfg.TUN, r.cfg.Front, r.cfg.Back} {
		list = append(list, &wantedSysctl{key: ifaceKey("ipv4", name, "forwarding"), value: "1", stays: name == r.cfg.TUN})
		if v6 {
			list = append(list, &wantedSysctl{key: ifaceKey("ipv6", name, "forwarding"), value: "1", stays: name == r.cfg.TUN})
		}
	}
	return list, nil
}

func (r *Routes) forwarding6() ([]*wantedSysctl, error) {
	const all = "ipv6/conf/all/forwarding"
	fwd, err := os.ReadFile(filepath.Join(procSysNet, all))
	if err != nil {
		return nil, fmt.Errorf("read sysctl %s: %w", dotted(all), err)
	}
	list := []*wantedSysctl{{key: all, value: "1"}}
	if strings.TrimSpace(string(fwd)) != "0" {
		return list, nil
	}
	ifaces, err := os.ReadDir(filepath.Join(procSysNet, "ipv6/conf"))
	if err != nil {
		return nil, fmt.Errorf("list interfaces below %s: %w", procSysNet, err)
	}
	var listeners []*wantedSysctl
	for _, e := range ifaces {
		name := e.Name()
		if name == "all" || name == "default" || name == "lo" || name == r.cfg.TUN {
			continue
		}
		key := ifaceKey("ipv6", name, "accept_ra")
		cur, err := os.ReadFile(filepath.Join(procSysNet, key))
		if errors.Is(err, os.ErrNotExist) {
			continue // the interface went away meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("read sysctl %s: %w", dotted(key), err)
		}
		if strings.TrimSpace(string(cur)) == "1" {
			listeners = append(listeners, &wantedSysctl{key: key, value: "2", only: "1"})
		}
	}
	return append(listeners, list...), nil
}

// redirectSysctls keep the kernel from telling IPv4 clients of a better next hop to a
// virtual address (RFC 1812, 5.2.7.2), which could be the standby. An interface sends
// redirects if its own setting or all's says so. IPv6 has no such setting: of that, and
// of what cannot be set here, the Guard takes care.
func (r *Routes) redirectSysctls() []*wantedSysctl {
	list := []*wantedSysctl{{key: "ipv4/conf/all/send_redirects", value: "0", optional: true}}
	for _, name := range []string{r.cfg.TUN, r.cfg.Front, r.cfg.Back} {
		list = append(list, &wantedSysctl{key: ifaceKey("ipv4", name, "send_redirects"), value: "0", optional: true, stays: name == r.cfg.TUN})
	}
	return list
}

// tableRoutes fill the policy table: everything to the TUN device, and to nowhere
// once that is gone. A blackhole route drops without ICMP in both families;
// unreachable or prohibit would answer.
func (r *Routes) tableRoutes(v6 bool) []wantedRoute {
	var list []wantedRoute
	for _, dst := range defaultPrefixes(v6) {
		list = append(list,
			wantedRoute{Route: &netlink.Route{
				Dst: dst, Table: r.cfg.Table, Type: unix.RTN_BLACKHOLE,
				Priority: blackholeMetric, Protocol: routeProtocol,
			}},
			wantedRoute{toTUN: true, Route: &netlink.Route{
				Dst: dst, Table: r.cfg.Table, LinkIndex: r.tunIndex,
				Priority: tunMetric, Protocol: routeProtocol, Scope: linkScope(dst),
			}})
	}
	return list
}

// throwRoutes keep the kernel from taking an IPv4 virtual address for its own when
// somebody configures it on an interface: the local table, which comes before every
// rule, says "not here" first. (IPv6 has no place before the kernel's own entry: see
// disown.)
func (r *Routes) throwRoutes() []wantedRoute {
	var list []wantedRoute
	for _, a := range r.virtual() {
		if a.Is4() {
			list = append(list, wantedRoute{Route: &netlink.Route{
				Dst: hostNet(a), Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_THROW, Protocol: routeProtocol,
			}})
		}
	}
	return list
}

// nowhereRoutes are what the main table has for virtual addresses. The rules come
// before it, so nothing gets here while they are there. Between somebody's flushing
// them and our putting them back the kernel would else send a client's packets back to
// the front network, with a redirect to whoever answers there for the address.
func (r *Routes) nowhereRoutes() []wantedRoute {
	var list []wantedRoute
	for _, a := range r.virtual() {
		list = append(list, wantedRoute{Route: &netlink.Route{
			Dst: hostNet(a), Table: unix.RT_TABLE_MAIN, Type: unix.RTN_BLACKHOLE,
			Priority: blackholeMetric, Protocol: routeProtocol,
		}})
	}
	return list
}

// virtual are the virtual addresses, each once.
func (r *Routes) virtual() []netip.Addr {
	var list []netip.Addr
	for _, a := range r.cfg.Virtual {
		if a = a.Unmap(); !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list
}

// gatewayPrefixes make the servers' networks reachable where the appliance has no
// address in them.
func (r *Routes) gatewayPrefixes() []wantedPrefix {
	var list []wantedPrefix
	for _, p := range r.cfg.Gateways {
		net := netip.PrefixFrom(p.Addr().Unmap(), p.Bits()).Masked()
		w := wantedPrefix{Route: &netlink.Route{
			Dst: ipNet(net), Table: unix.RT_TABLE_MAIN, Protocol: routeProtocol, Scope: linkScope(ipNet(net)),
		}}
		for _, s := range r.cfg.Servers {
			if a := s.Addr().Unmap(); net.Contains(a) {
				w.server = a
				break
			}
		}
		list = append(list, w)
	}
	return list
}

// wantedRules send protected packets to the policy table: whatever goes to a virtual
// address, and what the servers' service ports answer.
func (r *Routes) wantedRules() []*netlink.Rule {
	var list []*netlink.Rule
	for _, a := range r.virtual() {
		rule := r.newRule(a)
		rule.Dst = hostNet(a)
		list = append(list, rule)
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
		list = append(list, rule)
	}
	return list
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

// ruleKey is what two rules of one family are compared by before the kernel, which
// refuses to have one twice, is asked.
func ruleKey(rule *netlink.Rule) string {
	ports := ""
	if rule.Sport != nil {
		ports = fmt.Sprintf(" sport %d-%d", rule.Sport.Start, rule.Sport.End)
	}
	if rule.Dport != nil {
		ports += fmt.Sprintf(" dport %d-%d", rule.Dport.Start, rule.Dport.End)
	}
	return fmt.Sprintf("%d: from %s to %s iif %s oif %s proto %d%s table %d type %d", rule.Priority, prefixKey(rule.Src), prefixKey(rule.Dst),
		rule.IifName, rule.OifName, rule.IPProto, ports, rule.Table, max(rule.Type, unix.RTN_UNICAST))
}
