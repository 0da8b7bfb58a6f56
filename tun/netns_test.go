package tun

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// deadline bounds every wait in these tests; nothing is measured against it.
const deadline = 20 * time.Second

// requireRoot skips for ordinary users, and fails in CI, where a skipped test
// would pass unnoticed.
func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("this test needs root, and CI is set")
	}
	t.Skip("needs root")
}

// eventually polls cond until it holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	end := time.After(deadline)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-end:
			t.Fatalf("not reached: %s", what)
		case <-tick.C:
		}
	}
}

// testNS is a network namespace of its own on a thread of its own, which ends
// with the test and the namespace with it.
type testNS struct {
	t     testing.TB
	calls chan func()
	fd    netns.NsHandle
}

func newNS(t testing.TB) *testNS {
	t.Helper()
	requireRoot(t)
	n := &testNS{t: t, calls: make(chan func())}
	ready := make(chan error)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n.fd, err = netns.Get()
		}
		ready <- err
		if err != nil {
			return
		}
		for f := range n.calls {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	t.Cleanup(func() {
		close(n.calls)
		<-ended
		n.fd.Close()
	})
	n.run(func() error {
		// Where the bridge module filters, bridged frames would go through conntrack.
		for _, k := range []string{"arptables", "iptables", "ip6tables"} {
			_ = os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+k, []byte("0"), 0)
		}
		return n.up("lo")
	})
	return n
}

// run calls f inside the namespace and fails the test on its error. f must not
// end the test itself: it is not on the test's goroutine.
func (n *testNS) run(f func() error) {
	n.t.Helper()
	errc := make(chan error, 1)
	n.calls <- func() {
		defer func() {
			if p := recover(); p != nil {
				errc <- fmt.Errorf("panic: %v", p)
			}
		}()
		errc <- f()
	}
	if err := <-errc; err != nil {
		n.t.Fatal(err)
	}
}

// in is run for a function with a result.
func in[T any](n *testNS, f func() (T, error)) T {
	n.t.Helper()
	var out T
	n.run(func() (err error) { out, err = f(); return err })
	return out
}

// The following are for use inside run.

func (n *testNS) up(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

func (n *testNS) addr(name string, cidrs ...string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, c := range cidrs {
		a, err := netlink.ParseAddr(c)
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(l, a); err != nil {
			return fmt.Errorf("add %s to %s: %w", c, name, err)
		}
	}
	return nil
}

func (n *testNS) via(dst, gw string) error {
	return netlink.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix(dst)), Gw: net.ParseIP(gw)})
}

func sysctl(key, value string) error {
	return os.WriteFile(procSysNet+"/"+key, []byte(value), 0)
}

// veth joins namespaces a and b with a pair of interfaces, both up.
func veth(a *testNS, aName string, b *testNS, bName string) {
	a.t.Helper()
	a.run(func() error {
		la := netlink.NewLinkAttrs()
		la.Name = aName
		v := netlink.NewVeth(la)
		v.PeerName = bName
		v.PeerNamespace = netlink.NsFd(b.fd)
		if err := netlink.LinkAdd(v); err != nil {
			return fmt.Errorf("add veth %s-%s: %w", aName, bName, err)
		}
		return a.up(aName)
	})
	b.run(func() error { return b.up(bName) })
}
