package e2e

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"lockstep/appliance"
	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
)

// What an appliance has set up in its kernel is taken away, in the middle of transfers:
// what is its own it puts back; a virtual address that the kernel takes for its own
// makes it hand over; without its device it ends, and the standby goes on. No
// connection is lost.
func TestDataPathTakenAway(t *testing.T) {
	p := start(t, options{})
	idle := traffic.Times(5, traffic.Idle(0))
	during := func(f func(), loads ...traffic.Request) {
		t.Helper()
		finish := make(chan struct{})
		c := p.client(port4)
		c.Finish = finish
		wait := p.run(c, append(loads, idle...)...)
		p.await("traffic flows", func() bool {
			return c.Progress.Received.Load() >= 2*mib*int64(len(loads)) && p.status("a").Connections.Open+p.status("b").Connections.Open >= len(idle)
		})
		f()
		close(finish)
		wait()
	}
	link := func(h *lab.Host, name string) netlink.Link {
		l, err := h.Netlink().LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	for _, harm := range []struct {
		kind string
		do   func() error
	}{
		{"rule", func() error { return flushRules(p.A.Netlink()) }},
		{"sysctl", func() error { return p.A.Sysctl("net.ipv4.ip_forward", "0") }},
		{"link", func() error { return p.A.Netlink().LinkSetDown(link(p.A, "lockstep0")) }},
	} {
		before := p.status("a").Fitness.Repairs[harm.kind]
		during(func() {
			if err := harm.do(); err != nil {
				t.Fatal(err)
			}
			p.await(harm.kind+" is put back", func() bool { return p.status("a").Fitness.Repairs[harm.kind] > before })
		}, traffic.Both(12*mib))
	}
	if s := p.status("a"); s.Role != control.RoleActive || !s.InSync {
		t.Errorf("a is %s, in sync %v %s", s.Role, s.InSync, s.WhyNotInSync)
	}

	during(func() {
		if err := p.A.AddAddr("eth0", lab.VIP4+"/32"); err != nil {
			t.Fatal(err)
		}
		p.await("b is active", func() bool {
			return p.status("b").Role == control.RoleActive && p.status("a").Role == control.RoleStandby
		})
	}, traffic.Both(12*mib))
	p.await("both say why a takeover would not work", func() bool {
		a, b := p.status("a"), p.status("b")
		return !a.InSync && !b.InSync && strings.Contains(b.WhyNotInSync, lab.VIP4) && len(a.Fitness.Faults) == 1
	})
	if err := p.A.DelAddr("eth0", lab.VIP4+"/32"); err != nil {
		t.Fatal(err)
	}
	p.await("the pair is in sync", func() bool { return p.status("a").InSync && p.status("b").InSync })

	// A firewall's forward chain on b: nothing is missing, and yet no packet comes.
	filter, err := nftables.New(nftables.WithNetNSFd(p.B.NamespaceFD()))
	if err != nil {
		t.Fatal(err)
	}
	table := filter.AddTable(&nftables.Table{Name: "firewall", Family: nftables.TableFamilyINet})
	policy := nftables.ChainPolicyDrop
	filter.AddChain(&nftables.Chain{Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &policy})
	during(func() {
		if err := filter.Flush(); err != nil {
			t.Fatal(err)
		}
		p.await("a is active", func() bool {
			return p.status("a").Role == control.RoleActive && p.status("b").Role == control.RoleStandby
		})
	}, traffic.Both(12*mib))
	if s := p.status("a"); s.InSync || !strings.Contains(s.WhyNotInSync, "forward chain") {
		t.Errorf("in sync %v, %q", s.InSync, s.WhyNotInSync)
	}
	filter.DelTable(table)
	if err := filter.Flush(); err != nil {
		t.Fatal(err)
	}
	p.await("the pair is in sync", func() bool { return p.status("a").InSync && p.status("b").InSync })

	during(func() {
		if err := p.A.Netlink().LinkDel(link(p.A, "lockstep0")); err != nil {
			t.Fatal(err)
		}
		p.await("b is active", func() bool { return p.status("b").Role == control.RoleActive })
		<-p.a.Done()
	}, traffic.Both(12*mib))
	if p.a.Err() == nil || !strings.Contains(p.a.Output(), "lockstep0 was deleted") {
		t.Errorf("a ended with %v:\n%s", p.a.Err(), p.a.Tail(5))
	}
}

func flushRules(h *netlink.Handle) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := h.RuleList(family)
		if err != nil {
			return err
		}
		for i := range rules {
			if rules[i].Table == 7400 {
				if err := h.RuleDel(&rules[i]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// The first is longer than the kernel's names may be.
const altFront, altBack = "uplink-towards-clients", "servers"

// alternativeNames gives the appliances' interfaces names besides their own. What is configured by one is
// known by the kernel's in all that it reports: links, routes, rules.
func alternativeNames(p *pair) {
	p.t.Helper()
	for _, h := range []*lab.Host{p.A, p.B} {
		for name, alt := range map[string]string{lab.FrontIf: altFront, lab.BackIf: altBack} {
			l, err := h.Netlink().LinkByName(name)
			if err == nil {
				err = h.Netlink().LinkAddAltName(l, alt)
			}
			if err != nil {
				p.t.Fatal(err)
			}
		}
	}
	c := config.Default()
	c.Node, c.Networks.Front.Interface, c.Networks.Back.Interface = "a", altFront, altBack
	var warned []config.Warning
	err := p.A.Do(func() error {
		real, err := appliance.RealNames(c)
		warned = config.Check(real)
		return err
	})
	if err != nil || slices.ContainsFunc(warned, func(w config.Warning) bool { return strings.HasPrefix(w.Path, "networks.") }) {
		p.t.Errorf("check: %v, %v", err, warned)
	}
}

// In sync means that a takeover now would work. Of a standby without its front network,
// and of one that is configured differently, both say that it would not, and why.
func TestStandbyCouldNotServe(t *testing.T) {
	o := options{serve: alternativeNames, tune: func(c *config.Config) {
		c.Networks.Front.Interface, c.Networks.Back.Interface = altFront, altBack
	}}
	p := start(t, o)
	both := func(why string) func() bool {
		return func() bool {
			a, b := p.status("a"), p.status("b")
			return !a.InSync && !b.InSync && strings.Contains(a.WhyNotInSync, why) && strings.Contains(b.WhyNotInSync, why)
		}
	}
	port := p.Front.PortOf(p.B)
	if err := port.SetLink(false); err != nil {
		t.Fatal(err)
	}
	p.await("no takeover without the standby's front network", both("eth0 has no carrier"))
	if err := p.switchover("a"); err == nil || !strings.Contains(err.Error(), "eth0 has no carrier") {
		t.Errorf("switchover: %v", err)
	}
	if err := port.SetLink(true); err != nil {
		t.Fatal(err)
	}
	p.AwaitInSync()

	// b begins anew, with a service less and another server for the one that is left.
	extra := []config.Service{service("more", []string{lab.VIP4 + ":81"}, []string{"10.20.0.11:80"})}
	p.kill(p.a)
	<-p.a.Done()
	p.await("b is active", func() bool { return p.status("b").Role == control.RoleActive })
	with := o
	with.extra = extra
	p.a = p.appliance(p.A, "a", with)
	p.AwaitInSyncAs("a") // what only a standby has costs nothing
	p.kill(p.b)
	<-p.b.Done()
	p.await("a is active", func() bool { return p.status("a").Role == control.RoleActive })
	o.servers = []string{"10.20.0.12:80", "[fd20::11]:80"}
	p.b = p.appliance(p.B, "b", o)
	p.await("a takeover would lose connections", both(`service "web" has other servers on the standby; service "more" is not configured on the standby`))

	// It would take over all the same, and says what it could not continue.
	conn, err := p.Client.DialContext(context.Background(), "tcp", lab.VIP4+":81")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p.await("b holds the connection", func() bool { return p.status("b").Connections.Open == 1 })
	p.kill(p.a)
	<-p.a.Done()
	p.await("b is active", func() bool { return p.status("b").LastTakeover != nil })
	if l := p.status("b").LastTakeover; l.Lost != 1 || l.Connections != 0 {
		t.Errorf("%+v", l)
	}
	if !strings.Contains(p.b.Output(), "lost_by_service=map[more:1]") {
		t.Errorf("b does not say of which service:\n%s", p.b.Tail(10))
	}
}
