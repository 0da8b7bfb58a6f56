package e2e

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
)

// Both ways that packets come: by the short cut, which gives way to a filter of an operator's, and ends with the
// process; and by the rules alone.
func TestSteering(t *testing.T) {
	for _, path := range []config.Path{config.PathAuto, config.PathNetstack} {
		t.Run("auto, "+string(path), func(t *testing.T) { steered(t, options{path: path}) })
	}
	t.Run("rules", func(t *testing.T) {
		o := options{path: config.PathAuto, tune: func(c *config.Config) { c.Networks.Steering = config.SteeringRules }}
		c := newCouple(start(t, o), o)
		c.both(12 * mib)
		c.failover()
		c.both(12 * mib)
		if s := c.status(c.active).Steering; s.On || s.Why != "steering: rules" || len(s.Packets) > 0 {
			t.Errorf("%+v", s)
		}
	})
}

// both lets bytes run both ways over both families.
func (c *couple) both(n int64) {
	c.t.Helper()
	wait4 := c.run(c.client(port4), traffic.Both(n))
	wait6 := c.run(c.client(port6), traffic.Both(n))
	wait4()
	wait6()
}

func steered(t *testing.T, o options) {
	c := newCouple(start(t, o), o)
	c.await("packets are steered", func() bool { return c.status("a").Steering.On && c.status("b").Steering.On })
	if o.path == config.PathNetstack {
		c.reversePath()
	}
	steered := func() (n uint64) {
		for _, k := range c.status(c.active).Steering.Packets {
			n += k
		}
		return n
	}
	// Connections of the appliances' own machines are theirs: an operator's to a server, from the standby and the active.
	for _, h := range []*lab.Host{c.A, c.B} {
		for _, v6 := range []bool{false, true} {
			server := c.ServerAddr(0, v6, 80).String()
			err := h.Do(func() error {
				conn, err := net.DialTimeout("tcp", server, 20*time.Second)
				if err == nil {
					err = conn.Close()
				}
				return err
			})
			if err != nil {
				t.Errorf("from %s to %s: %v", h.Name(), server, err)
			}
		}
	}
	c.both(12 * mib)
	for way, n := range c.status(c.active).Steering.Packets {
		if n < 100 && way != "flows" { // that need not be on, and transfers do not rest
			t.Errorf("%s: %d packets were steered", way, n)
		}
	}
	if n := len(c.programs(c.A, "eth0")) + len(c.programs(c.A, "eth1")); n != 2 {
		t.Errorf("%d programs on two NICs", n)
	}

	// An operator's filter, while bytes run.
	filter, err := nftables.New(nftables.WithNetNSFd(c.A.NamespaceFD()))
	if err != nil {
		t.Fatal(err)
	}
	table := filter.AddTable(&nftables.Table{Name: "firewall", Family: nftables.TableFamilyINet})
	chain := filter.AddChain(&nftables.Chain{Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
	filter.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Counter{}}})
	finish := make(chan struct{})
	client := c.client(port4)
	client.Finish = finish
	wait := c.run(client, traffic.Both(12*mib), traffic.Idle(0))
	if err := filter.Flush(); err != nil {
		t.Fatal(err)
	}
	c.await("the filter sees everything", func() bool {
		s := c.status("a").Steering
		return !s.On && strings.Contains(s.Why, "nft list chain inet firewall forward")
	})
	before := steered()
	c.both(mib)
	if n := steered(); n != before {
		t.Errorf("%d packets were steered past a filter", n-before)
	}
	filter.DelTable(table)
	if err := filter.Flush(); err != nil {
		t.Fatal(err)
	}
	c.await("packets are steered again", func() bool { return c.status("a").Steering.On })

	c.kill(c.a)
	c.await("b is active, a's process gone", func() bool { return c.status("b").Role == control.RoleActive && !c.a.Running() })
	for _, nic := range []string{"eth0", "eth1"} {
		if left := c.programs(c.A, nic); len(left) > 0 {
			t.Errorf("left on %s: %v", nic, left)
		}
	}
	c.active, c.standby = "b", "a"
	c.both(12 * mib)
	close(finish)
	wait()
}

// reversePath turns the strict reverse path filter on, with which packets are steered by other programs.
func (c *couple) reversePath() {
	c.t.Helper()
	for name, h := range map[string]*lab.Host{"a": c.A, "b": c.B} {
		before := c.programs(h, "eth0")
		if err := h.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("1"), 0) }); err != nil {
			c.t.Fatal(err)
		}
		c.await("the way back is looked at", func() bool {
			now := c.programs(h, "eth0")
			return len(now) == 1 && now[0].ID != before[0].ID && c.status(name).Steering.On
		})
	}
}

// programs are what sits on an interface.
func (c *couple) programs(h *lab.Host, name string) (list []link.AttachedProgram) {
	c.t.Helper()
	nic, err := h.Netlink().LinkByName(name)
	if err == nil {
		err = h.Do(func() error {
			r, err := link.QueryPrograms(link.QueryOptions{Target: nic.Attrs().Index, Attach: ebpf.AttachTCXIngress})
			if err == nil {
				list = r.Programs
			}
			return err
		})
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return list
}
