package tun

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// Hosts that answer are reached, one of them is enough; when the network swallows
// everything that is noticed although the carrier stays.
func TestReach(t *testing.T) {
	a, b := newNS(t), newNS(t)
	veth(a, "x0", b, "x1")
	a.run(func() error { return a.addr("x0", "192.0.2.1/24", "2001:db8:9::1/64") })
	b.run(func() error { return b.addr("x1", "192.0.2.2/24", "2001:db8:9::2/64") })
	a.run(func() error { return a.up("x0") })
	b.run(func() error { return b.up("x1") })
	for name, targets := range map[string][]netip.Addr{
		"v4":             {netip.MustParseAddr("192.0.2.2")},
		"v6":             {netip.MustParseAddr("2001:db8:9::2")},
		"one that fails": {netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("192.0.2.2")},
	} {
		t.Run(name, func(t *testing.T) {
			r := in(a, func() (*Reach, error) {
				return WatchReach(ReachConfig{Interface: "x0", Targets: targets, Period: 20 * time.Millisecond, Timeout: 300 * time.Millisecond})
			})
			defer r.Close()
			next := func(want bool) {
				t.Helper()
				end := time.After(deadline)
				for {
					select {
					case got := <-r.Events():
						if got == want {
							return
						}
					case <-end:
						t.Fatalf("never %v", want)
					}
				}
			}
			next(true)
			silence(b, "x1", true)
			next(false)
			silence(b, "x1", false)
			next(true)
		})
	}
}

// silence takes the addresses away, or gives them back: the carrier stays.
func silence(n *testNS, name string, quiet bool) {
	n.run(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for _, cidr := range []string{"192.0.2.2/24", "2001:db8:9::2/64"} {
			addr, err := netlink.ParseAddr(cidr)
			if err != nil {
				return err
			}
			if quiet {
				err = netlink.AddrDel(l, addr)
			} else {
				addr.Flags = 0x2 // IFA_F_NODAD: usable at once
				err = netlink.AddrAdd(l, addr)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Nobody has ever answered: that is the configuration's fault, not the network's.
func TestReachOfNobodyIsSilent(t *testing.T) {
	a, b := newNS(t), newNS(t)
	veth(a, "x0", b, "x1")
	a.run(func() error { return a.addr("x0", "192.0.2.1/24") })
	a.run(func() error { return a.up("x0") })
	r := in(a, func() (*Reach, error) {
		return WatchReach(ReachConfig{Interface: "x0", Targets: []netip.Addr{netip.MustParseAddr("192.0.2.77")}, Period: time.Millisecond, Timeout: 5 * time.Millisecond})
	})
	defer r.Close()
	select {
	case got := <-r.Events():
		t.Errorf("said %v", got)
	case <-time.After(200 * time.Millisecond): // forty time-outs
	}
}

// A process that was without a CPU has not read the answers: that is no silence of the network's, which is noticed after
// the time-out all the same.
func TestReachAfterPausesOfOurOwn(t *testing.T) {
	j := reachJudge{period: time.Second, timeout: 3 * time.Second}
	now, heard := time.Duration(0), time.Duration(0)
	look := func(pause time.Duration, answered bool) bool {
		in := j.sent(now)
		if in != j.period {
			t.Fatalf("a look %v after sending", in)
		}
		if answered {
			heard = now + time.Millisecond
		}
		now += in + pause
		return j.look(now, heard)
	}
	if look(0, false) || look(9*time.Second, false) {
		t.Fatal("something is told before the first answer")
	}
	if !look(0, true) || !j.reached {
		t.Fatal("an answer is not told")
	}
	for range 10 {
		if look(9*time.Second, false) {
			t.Fatal("not reached after a pause of our own")
		}
	}
	for i := range 3 {
		if got := look(100*time.Millisecond, false); got != (i == 2) {
			t.Fatalf("silence for %d periods: told %v", i+1, got)
		}
	}
	if j.reached {
		t.Fatal("reached although nobody answers")
	}
	if !look(9*time.Second, true) || !j.reached {
		t.Fatal("an answer that was read late is not told")
	}
}
