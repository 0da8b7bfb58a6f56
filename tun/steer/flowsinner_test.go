package steer

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/splice"
)

// A connection whose packets the packet filter gives another TTL on their way out is not passed on past it.
func TestFlowsOnlyOfWhatIsSteered(t *testing.T) {
	at := netip.MustParseAddrPort
	vip, server := at("203.0.113.10:80"), at("10.20.0.11:8080")
	a := splice.Addrs{Client: at("203.0.113.100:40000"), VIP: vip, Local: at("203.0.113.100:40000"), Server: server}
	for _, c := range []struct {
		from, to []netip.AddrPort
		want     bool
	}{
		{[]netip.AddrPort{vip}, []netip.AddrPort{server}, true},
		{nil, []netip.AddrPort{server}, false},
		{[]netip.AddrPort{vip}, nil, false},
		{[]netip.AddrPort{server}, []netip.AddrPort{vip}, false},
	} {
		w := (&Config{From: c.from, To: c.to}).ways()
		if got := w.steer(&a); got != c.want {
			t.Errorf("from %v, to %v: %v", c.from, c.to, got)
		}
	}
}

// Whoever has not the kernel's clock cannot say until when programs may run.
func TestSameClock(t *testing.T) {
	for text, want := range map[string]string{
		"monotonic           0         0\nboottime            0         0\n":   "",
		"monotonic           0         0\nboottime            5         0\n":   "",
		"monotonic          10         0\nboottime            0         0\n":   "10 s off",
		"monotonic           0         500\nboottime            0         0\n": "time namespace",
		"monotonic          -1 999999999\nboottime            0         0\n":   "-1 s off",
	} {
		file := filepath.Join(t.TempDir(), "offsets")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := sameClock(file); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := sameClock(filepath.Join(t.TempDir(), "none")); err != nil {
		t.Error(err)
	}
	if err := sameClock(timeOffsets); err != nil {
		t.Error(err)
	}
}

// A flow that cannot be taken away would be passed on for ever: nothing is any more.
func TestFlowThatCannotBeTakenAway(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("this test needs root, and CI is set")
		}
		t.Skip("needs root")
	}
	at := netip.MustParseAddrPort
	o := splice.Offloaded{Addrs: splice.Addrs{Client: at("203.0.113.100:40000"), VIP: at("203.0.113.10:80"), Local: at("203.0.113.100:40000"), Server: at("10.20.0.11:8080")}}
	f, err := newFlows(&Config{Flows: 2, From: []netip.AddrPort{o.Addrs.VIP}, To: []netip.AddrPort{o.Addrs.Server}})
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	e, err := f.Enter(&o)
	if err != nil {
		t.Fatal(err)
	}
	other := o
	other.Addrs.Server = at("10.20.0.12:8080")
	if _, err := f.Enter(&other); !errors.Is(err, errNotSteered) {
		t.Errorf("another server's connection: %v", err)
	}
	if err := f.Allow(time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := f.on.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Leave(e, &o); !errors.Is(err, errLost) {
		t.Errorf("taken away: %v", err)
	}
	if until := f.life.lease().until; until != 0 {
		t.Errorf("passed on until %d", until)
	}
	if err := f.Allow(time.Hour); !errors.Is(err, errLost) {
		t.Errorf("allowed again: %v", err)
	}
	if err := f.Wait(); err != nil {
		t.Errorf("wait: %v", err)
	}
}

// When the thread dies that holds the lease, the kernel says so in it, and says nothing when it was given back.
func TestLeaseOfTheDead(t *testing.T) {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Munmap(page); err != nil {
			t.Error(err)
		}
	})
	l := &life{page: page}
	taken, end := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // and never unlocks: the thread ends here
		taken <- l.lease().take()
		<-end
	}()
	if err := <-taken; err != nil {
		t.Fatal(err)
	}
	owner := func() uint32 { return atomic.LoadUint32(&l.lease().owner) }
	if n := owner(); n == 0 || n&ownerDied != 0 {
		t.Errorf("the owner is %#x while it lives", n)
	}
	close(end)
	for late := time.After(time.Minute); owner() != ownerDied; runtime.Gosched() {
		select {
		case <-late:
			t.Fatalf("the owner is %#x when it is dead", owner())
		default:
		}
	}
}
