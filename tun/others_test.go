package tun

import (
	"errors"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Whoever must see what is forwarded is found, and nobody else.
func TestOthers(t *testing.T) {
	ns, peer := newNS(t), newNS(t)
	veth(ns, "nic", peer, "other")
	others := NewOthers("nic")
	find := func(want string) {
		t.Helper()
		got := in(ns, others.Look)
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	find("")
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns.fd)))
	if err != nil {
		t.Fatal(err)
	}
	flush := func() {
		t.Helper()
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	drop, accept := nftables.ChainPolicyDrop, nftables.ChainPolicyAccept
	for _, c := range []struct {
		table  nftables.Table
		hook   *nftables.ChainHook
		policy *nftables.ChainPolicy
		device string
		rule   bool
		want   string
	}{
		{nftables.Table{Family: nftables.TableFamilyINet, Name: "x"}, nftables.ChainHookForward, &accept, "", false, ""},
		{nftables.Table{Family: nftables.TableFamilyINet, Name: "x"}, nftables.ChainHookForward, &drop, "", false, "nft list chain inet x c"},
		{nftables.Table{Family: nftables.TableFamilyINet, Name: "x"}, nftables.ChainHookForward, &accept, "", true, "nft list chain inet x c"},
		{nftables.Table{Family: nftables.TableFamilyINet, Name: "x"}, nftables.ChainHookInput, &drop, "", true, ""},
		{nftables.Table{Family: nftables.TableFamilyINet, Name: "x"}, nftables.ChainHookOutput, &accept, "", true, ""},
		{nftables.Table{Family: nftables.TableFamilyIPv4, Name: "x"}, nftables.ChainHookPrerouting, &accept, "", true, "nft list chain ip x c"},
		{nftables.Table{Family: nftables.TableFamilyIPv6, Name: "x"}, nftables.ChainHookPostrouting, &accept, "", true, "nft list chain ip6 x c"},
		{nftables.Table{Family: nftables.TableFamilyNetdev, Name: "x"}, nftables.ChainHookIngress, &accept, "nic", true, "nft list chain netdev x c"},
		{nftables.Table{Family: nftables.TableFamilyINet, Name: "x"}, nftables.ChainHookRef(inetIngress), &accept, "nic", true, "nft list chain inet x c"},
		{nftables.Table{Family: nftables.TableFamilyINet, Name: guardTable}, nftables.ChainHookPrerouting, &accept, "", true, ""},
		{nftables.Table{Family: nftables.TableFamilyINet, Name: "x"}, nil, nil, "", true, ""},
	} {
		table := conn.AddTable(&c.table)
		chain := &nftables.Chain{Name: "c", Table: table}
		if c.hook != nil {
			chain.Type, chain.Hooknum, chain.Priority, chain.Policy, chain.Device = nftables.ChainTypeFilter, c.hook, nftables.ChainPriorityFilter, c.policy, c.device
		}
		conn.AddChain(chain)
		if c.rule {
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Counter{}}})
		}
		flush()
		find(c.want)
		if others.known == (c.device != "") { // a chain of a device's may go with it, and the generation stays
			t.Errorf("%s: the answer is kept: %t", c.want, others.known)
		}
		conn.DelTable(table)
		flush()
		find("")
	}
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Src, rule.Type = netlink.FAMILY_V4, 100, ipNet(netip.MustParsePrefix("203.0.113.0/24")), unix.RTN_BLACKHOLE
	ns.run(func() error { return netlink.RuleAdd(rule) })
	find("policy rule of priority 100")
	ns.run(func() error { return netlink.RuleDel(rule) })
	find("")
	for _, c := range []struct {
		of, v string
		want  bool
	}{{"nic", "1", true}, {"nic", "2", false}, {"all", "1", false}, {"nic", "0", true}, {"all", "0", false}} {
		ns.run(func() error { return os.WriteFile("/proc/sys/net/ipv4/conf/"+c.of+"/rp_filter", []byte(c.v), 0) })
		if got := in(ns, func() (bool, error) { return ReversePath("nic") }); got != c.want {
			t.Errorf("strict reverse path filter after %s=%s: %t", c.of, c.v, got)
		}
	}
	find("")
	policy := &netlink.XfrmPolicy{
		Src: ipNet(netip.MustParsePrefix("203.0.113.0/24")), Dst: ipNet(netip.MustParsePrefix("198.51.100.0/24")), Dir: netlink.XFRM_DIR_OUT,
		Tmpls: []netlink.XfrmPolicyTmpl{{Proto: netlink.XFRM_PROTO_ESP, Mode: netlink.XFRM_MODE_TRANSPORT}},
	}
	ns.run(func() error { return netlink.XfrmPolicyAdd(policy) })
	find("IPsec")
	ns.run(func() error { return netlink.XfrmPolicyDel(policy) })
	find("")
	ns.run(func() error {
		nic, err := netlink.LinkByName("nic")
		if err != nil {
			return err
		}
		qdisc := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: nic.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS}}
		if err := netlink.QdiscAdd(qdisc); err != nil {
			return err
		}
		return netlink.FilterAdd(&netlink.U32{FilterAttrs: netlink.FilterAttrs{
			LinkIndex: nic.Attrs().Index, Parent: qdisc.Handle, Priority: 1, Protocol: unix.ETH_P_ALL}, ClassId: netlink.MakeHandle(1, 1)})
	})
	find("tc filter show dev nic ingress")
}

// The packet filter's rules are listed again when somebody has changed something, and not before.
func TestOthersAgain(t *testing.T) {
	ns := newNS(t)
	others := NewOthers()
	look := func(want string) {
		t.Helper()
		if got := in(ns, others.Look); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	look("")
	const remembered = "remembered"
	others.filter = remembered
	look(remembered)
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns.fd)))
	if err != nil {
		t.Fatal(err)
	}
	conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "x"})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	look("")
	look("")
}

// Who may not ask has not found that nobody is there.
func TestOthersUnknown(t *testing.T) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread without rights dies with the goroutine
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&hdr, &none[0]); err != nil {
			t.Error(err)
			return
		}
		if what, err := NewOthers().Look(); what != "" || !errors.Is(err, os.ErrPermission) {
			t.Errorf("%q, %v", what, err)
		}
	}()
	<-done
}
