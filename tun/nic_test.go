package tun

import (
	"context"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
)

func TestWatchLinks(t *testing.T) {
	a, b := newNS(t), newNS(t)
	ignore := goleak.IgnoreCurrent()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	events := in(a, func() (<-chan LinkEvent, error) { return WatchLinks(ctx, []string{"eth0", "other"}) })
	until := func(what string, ok func(LinkEvent) bool) LinkEvent {
		t.Helper()
		for ev := range events {
			if ok(ev) {
				return ev
			}
		}
		t.Fatalf("watch ended before: %s", what)
		return LinkEvent{}
	}
	for range 2 {
		until("both missing at first", func(e LinkEvent) bool { return !e.Exists })
	}
	veth(a, "eth0", b, "peer")
	ev := until("carrier", func(e LinkEvent) bool { return e.Name == "eth0" && e.Carrier })
	nic := in(a, func() (NIC, error) { return ReadNIC("eth0") })
	if !ev.Exists || !ev.NIC.equal(nic) || nic.MTU != 1500 || len(nic.MAC) != 6 {
		t.Fatalf("event %+v, interface %+v", ev, nic)
	}
	set := func(n *testNS, name string, f func(netlink.Link) error) {
		n.run(func() error {
			l, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			return f(l)
		})
	}
	set(b, "peer", netlink.LinkSetDown)
	until("carrier lost, still up", func(e LinkEvent) bool { return e.Exists && e.Up && !e.Carrier })
	set(b, "peer", netlink.LinkSetUp)
	until("carrier back", func(e LinkEvent) bool { return e.Carrier })
	set(a, "eth0", func(l netlink.Link) error { return netlink.LinkSetMTU(l, 1300) })
	until("MTU", func(e LinkEvent) bool { return e.MTU == 1300 })
	set(a, "eth0", func(l netlink.Link) error { return netlink.LinkSetName(l, "other") })
	// Some kernels rename only interfaces that are down; this one may do both.
	renamed := map[string]bool{}
	until("rename", func(e LinkEvent) bool {
		renamed[e.Name] = e.Exists
		return renamed["other"] && !renamed["eth0"]
	})
	set(a, "other", netlink.LinkDel)
	until("deleted", func(e LinkEvent) bool { return e.Name == "other" && !e.Exists })
	cancel()
	for range events {
	}
	goleak.VerifyNone(t, ignore)
}

func TestReadNICMissing(t *testing.T) {
	n := newNS(t)
	n.run(func() error {
		if _, err := ReadNIC("nope"); err == nil {
			t.Error("no error for a missing interface")
		}
		return nil
	})
}
