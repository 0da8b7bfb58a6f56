package tun

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/nftables"
	nfnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Others looks for rules that would not see packets that go past routing and the packet filter between interfaces: an
// operator's, who would find them without effect.
type Others struct {
	interfaces []string

	filter string // what was found in the packet filter
	seen   uint32 // at this generation of it
	known  bool   // it was looked at, and nothing but a new generation changes that
}

// NewOthers is for the interfaces that are named.
func NewOthers(interfaces ...string) *Others { return &Others{interfaces: interfaces} }

// Look says in words whose rules there are. Empty: there are none. It acts on the caller's network namespace, always the same.
func (o *Others) Look() (string, error) {
	for _, ask := range []func() (string, error){
		o.lookFilter, legacyFilter, policies, othersRules,
		func() (string, error) { return ingress(o.interfaces) },
	} {
		if what, err := ask(); what != "" || err != nil {
			return what, err
		}
	}
	return "", nil
}

// lookFilter lists the packet filter's rules, perhaps many thousands, only when somebody has changed something since.
func (o *Others) lookFilter() (string, error) {
	sock, err := nfnetlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return "", fmt.Errorf("open packet filter: %w", err)
	}
	now, err := generation(sock)
	err = errors.Join(err, sock.Close())
	if missing(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look for the packet filter's rules: %w", err)
	}
	if o.known && now == o.seen {
		return o.filter, nil
	}
	what, device, err := othersFilter()
	o.filter, o.seen = what, now
	o.known = err == nil && !device // a chain of a device's may go with the device, which is no new generation
	return what, err
}

// othersFilter looks for chains that see forwarded packets and have rules, or drop what has none. device: what it has found
// belongs to a device.
func othersFilter() (what string, device bool, err error) {
	conn, err := nftables.New()
	if err != nil {
		return "", false, fmt.Errorf("open packet filter: %w", err)
	}
	chains, err := conn.ListChains()
	if missing(err) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("list the packet filter's chains: %w", err)
	}
	for _, c := range chains {
		if c.Table.Name == guardTable && c.Table.Family == nftables.TableFamilyINet || !onWay(c) {
			continue
		}
		rules := c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
		if !rules {
			list, err := conn.GetRules(c.Table, c)
			if err != nil && !errors.Is(err, os.ErrNotExist) { // gone meanwhile
				return "", false, fmt.Errorf("list the rules of table %s, chain %s: %w", c.Table.Name, c.Name, err)
			}
			rules = len(list) > 0
		}
		if rules {
			return fmt.Sprintf("the packet filter has rules for what is forwarded (nft list chain %s %s %s), which must see it",
				familyName(c.Table.Family), c.Table.Name, c.Name), ofDevice(c), nil
		}
	}
	return "", false, nil
}

const netdevIngress, inetIngress = 0, 5 // hooks

// ofDevice: it may go with its device, and the generation stays. (Newer kernels keep it until a device of that name comes.)
func ofDevice(c *nftables.Chain) bool {
	return c.Table.Family == nftables.TableFamilyNetdev || c.Table.Family == nftables.TableFamilyINet && *c.Hooknum == inetIngress
}

// onWay: packets that are routed pass the chain, but not those from or to this host only.
func onWay(c *nftables.Chain) bool {
	if c.Hooknum == nil {
		return false // only jumped to
	}
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
			return "", fmt.Errorf("look for tables of iptables-legacy, which the group root may (SupplementaryGroups=root in the unit; or `rmmod %s` where nothing needs it): %w",
				strings.TrimSuffix(name, "_names"), err)
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

// ReversePath tells whether the strict reverse path filter (RFC 3704) is on, which routing applies to what comes in by the
// interface. The kernel uses the larger one of all's and the interface's.
func ReversePath(name string) (strict bool, err error) {
	largest := 0
	for _, of := range []string{"all", name} {
		b, err := os.ReadFile(filepath.Join(procSysNet, ifaceKey("ipv4", of, "rp_filter")))
		if err != nil {
			return false, fmt.Errorf("ask for the reverse path filter: %w", err)
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			return false, fmt.Errorf("ask for the reverse path filter: %w", err)
		}
		largest = max(largest, n)
	}
	return largest == 1, nil
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
