package tun

import (
	"errors"
	"fmt"
	"os"
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
		othersFilter, legacyFilter, policies,
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
	if err != nil { // without one nothing is in the way
		return "", nil //nolint:nilerr // see above
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
			return "whether there are tables of iptables-legacy is not known (/proc/net/" + name + " cannot be read)", nil
		}
	}
	return "", nil
}

// policies looks for IPsec: what it encrypts is decided by routing.
func policies() (string, error) {
	list, err := netlink.XfrmPolicyList(netlink.FAMILY_ALL)
	if err != nil { // a kernel without
		return "", nil //nolint:nilerr // see above
	}
	for _, p := range list {
		if p.Dir == netlink.XFRM_DIR_FWD || p.Dir == netlink.XFRM_DIR_OUT {
			return "there are policies of IPsec (ip xfrm policy), which must see what is forwarded", nil
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
