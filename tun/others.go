package tun

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Others says in words whose rules would not see packets that go past routing and the packet filter between the
// interfaces that are named: an operator's, who would find them without effect. Empty: there are none. It acts on the
// caller's network namespace.
func Others(interfaces ...string) (string, error) {
	for _, ask := range []func() (string, error){
		othersFilter, legacyFilter, policies, othersRules,
		func() (string, error) { return reversePath(interfaces) },
		func() (string, error) { return ingress(interfaces) },
	} {
		if what, err := ask(); what != "" || err != nil {
			return what, err
		}
	}
	return "", nil
}

// othersFilter looks for chains that see forwarded packets and have rules, or drop what has none.
func othersFilter() (string, error) {
	conn, err := nftables.New()
	if err != nil {
		return "", fmt.Errorf("open packet filter: %w", err)
	}
	chains, err := conn.ListChains()
	if missing(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("list the packet filter's chains: %w", err)
	}
	for _, c := range chains {
		if c.Table.Name == guardTable && c.Table.Family == nftables.TableFamilyINet || !onWay(c) {
			continue
		}
		rules := c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
		if !rules {
			list, err := conn.GetRules(c.Table, c)
			if err != nil && !errors.Is(err, os.ErrNotExist) { // gone meanwhile
				return "", fmt.Errorf("list the rules of table %s, chain %s: %w", c.Table.Name, c.Name, err)
			}
			rules = len(list) > 0
		}
		if rules {
			return fmt.Sprintf("the packet filter has rules for what is forwarded (nft list chain %s %s %s), which must see it",
				familyName(c.Table.Family), c.Table.Name, c.Name), nil
		}
	}
	return "", nil
}

// onWay: packets that are routed pass the chain, but not those from or to this host only.
func onWay(c *nftables.Chain) bool {
	if c.Hooknum == nil {
		return false // only jumped to
	}
	const netdevIngress, inetIngress = 0, 5
	switch c.Table.Family {
	case nftables.TableFamilyNetdev:
		return *c.Hooknum == netdevIngress
	case nftables.TableFamilyINet, nftables.TableFamilyIPv4, nftables.TableFamilyIPv6:
		return *c.Hooknum == *nftables.ChainHookPrerouting || *c.Hooknum == *nftables.ChainHookForward ||
			*c.Hooknum == *nftables.ChainHookPostrouting || *c.Hooknum == inetIngress
	}
	return false
}

func familyName(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyNetdev:
		return "netdev"
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	}
	return "inet"
}

// legacyFilter: the tables of iptables-legacy are not nftables'. A table is there from the first look at it on.
func legacyFilter() (string, error) {
	for _, name := range []string{"ip_tables_names", "ip6_tables_names"} {
		b, err := os.ReadFile("/proc/thread-self/net/" + name)
		if tables := strings.Fields(string(b)); len(tables) > 0 {
			return "there are tables of iptables-legacy (" + strings.Join(tables, ", ") + "), which must see what is forwarded", nil
		}
		if errors.Is(err, os.ErrPermission) {
			return "", fmt.Errorf("look for tables of iptables-legacy: %w", err)
		}
	}
	return "", nil
}

// policies looks for IPsec: what it encrypts is decided by routing.
func policies() (string, error) {
	list, err := netlink.XfrmPolicyList(netlink.FAMILY_ALL)
	if missing(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("list policies of IPsec: %w", err)
	}
	for _, p := range list {
		if p.Dir == netlink.XFRM_DIR_FWD || p.Dir == netlink.XFRM_DIR_OUT {
			return "there are policies of IPsec (ip xfrm policy), which must see what is forwarded", nil
		}
	}
	return "", nil
}

// missing: the kernel has no such subsystem. Any other error says nothing of what is there.
func missing(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)
}

// othersRules looks for policy rules that come before ours: they may drop what those take, or lead it elsewhere.
func othersRules() (string, error) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := netlink.RuleList(family)
		if missing(err) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("list policy rules: %w", err)
		}
		first := mainPriority
		for i := range rules {
			if rules[i].Protocol == routeProtocol {
				first = min(first, rules[i].Priority)
			}
		}
		for i := range rules {
			if r := &rules[i]; r.Priority < first && r.Table != unix.RT_TABLE_LOCAL {
				return fmt.Sprintf("there is a policy rule of priority %d (ip rule), before the appliance's, which must see what is forwarded", r.Priority), nil
			}
		}
	}
	return "", nil
}

// mainPriority is that of the main table's rule.
const mainPriority = 32766

// reversePath looks for the strict reverse path filter (RFC 3704), which routing applies. The kernel uses the larger one of
// all's and the interface's.
func reversePath(interfaces []string) (string, error) {
	for _, name := range interfaces {
		largest := 0
		for _, of := range []string{"all", name} {
			b, err := os.ReadFile(filepath.Join(procSysNet, ifaceKey("ipv4", of, "rp_filter")))
			if err != nil {
				return "", fmt.Errorf("ask for the reverse path filter: %w", err)
			}
			n, err := strconv.Atoi(strings.TrimSpace(string(b)))
			if err != nil {
				return "", fmt.Errorf("ask for the reverse path filter: %w", err)
			}
			largest = max(largest, n)
		}
		if largest == 1 {
			return "the reverse path filter is strict (sysctl net.ipv4.conf." + name + ".rp_filter or all's is 1; 2 is loose), which must see what comes in", nil
		}
	}
	return "", nil
}

// ingress looks for filters of tc, whose turn would come after the programs that steer.
func ingress(interfaces []string) (string, error) {
	for _, name := range interfaces {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return "", fmt.Errorf("find interface %q: %w", name, err)
		}
		filters, err := netlink.FilterList(l, netlink.HANDLE_MIN_INGRESS)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) { // those that has none
			return "", fmt.Errorf("list the filters of %q: %w", name, err)
		}
		if len(filters) > 0 {
			return "there are filters of tc (tc filter show dev " + name + " ingress), which must see what comes in", nil
		}
	}
	return "", nil
}
