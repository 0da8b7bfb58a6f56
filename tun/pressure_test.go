package tun

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// arrivals counts what gets to the device, by flow.
type arrivals struct {
	mu    sync.Mutex
	flows map[string]int
}

func arrived(t *testing.T, d Device) *arrivals {
	t.Helper()
	a := &arrivals{flows: map[string]int{}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		hdr, buf := make([]byte, VnetHeaderLen), make([]byte, MaxPacketLen)
		for {
			n, err := d.ReadV([][]byte{hdr, buf})
			if errors.Is(err, os.ErrClosed) {
				return
			}
			if err != nil {
				t.Errorf("read: %v", err)
				return
			}
			a.mu.Lock()
			a.flows[flow(buf[:n])]++
			a.mu.Unlock()
		}
	}()
	t.Cleanup(func() { d.Close(); <-ended })
	return a
}

// of tells how many of these flows have arrived.
func (a *arrivals) of(flows []string) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, f := range flows {
		if a.flows[f] > 0 {
			n++
		}
	}
	return n
}

// synsFrom sends a SYN for each source to dst.
func synsFrom(n *testNS, sources []string, dst string) (flows []string) {
	n.run(func() error {
		to := netip.MustParseAddrPort(dst)
		family, sa := unix.AF_INET, unix.Sockaddr(nil)
		if to.Addr().Is4() {
			sa = &unix.SockaddrInet4{Addr: to.Addr().As4()}
		} else {
			family, sa = unix.AF_INET6, &unix.SockaddrInet6{Addr: to.Addr().As16()}
		}
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, src := range sources {
			b := segment(src, dst, 64)
			b[len(b)-20+13] = 0x02 // SYN
			if err := unix.Sendto(fd, b, 0, sa); err != nil {
				return err
			}
			flows = append(flows, src+" > "+dst)
		}
		return nil
	})
	return flows
}

// Of what goes to an address under pressure first SYNs are dropped beyond a rate, and
// counted; their repetitions get in, and what goes to another address does.
func TestPressure(t *testing.T) {
	for _, c := range []struct{ name, source, pressed, calm string }{
		{"IPv4", "10.1.%d.1:%d", "203.0.113.10:80", "203.0.113.10:81"},
		{"IPv6", "[fd01::%x]:%d", "[2001:db8::10]:80", "[2001:db8::10]:81"},
	} {
		t.Run(c.name, func(t *testing.T) { testPressure(t, c.source, c.pressed, c.calm) })
	}
}

// pressedSite is one with a packet filter, where anybody's address may come.
func pressedSite(t *testing.T, cfg GuardConfig) (*site, *Guard, *arrivals) {
	t.Helper()
	s := newSite(t)
	d, _ := s.install(t)
	s.gw.run(func() error {
		for _, k := range []string{"all", "front", "back"} {
			if err := sysctl("ipv4/conf/"+k+"/rp_filter", "0"); err != nil {
				return err
			}
		}
		return nil
	})
	return s, s.guard(t, cfg), arrived(t, d)
}

func sourcesOf(format string, from, n int) (list []string) {
	for i := from; i < from+n; i++ {
		list = append(list, fmt.Sprintf(format, 1+i/60000, 1024+i%60000))
	}
	return list
}

// refusedNow counts SYNs that are dropped, without waiting for the next look.
func refusedNow(t *testing.T, g *Guard) uint64 {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	objs, err := g.conn.GetObjects(g.table())
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objs {
		if c, ok := o.(*nftables.CounterObj); ok && c.Name == refusedFlood {
			return c.Packets
		}
	}
	return 0
}

// When there is no room for whom to wait for, first SYNs and repetitions get in all the same,
// as many as the engine can answer.
func TestPressureWithoutRoom(t *testing.T) {
	cfg := guardConfig()
	cfg.tried = 16
	s, g, got := pressedSite(t, cfg)
	const dst = "203.0.113.10:80"
	g.pressNow([]netip.AddrPort{netip.MustParseAddrPort(dst)})
	flows := synsFrom(s.client, sourcesOf("10.1.%d.1:%d", 0, 2*pressureEach), dst)
	eventually(t, "each SYN here or there", func() bool { return got.of(flows)+int(refusedNow(t, g)) == len(flows) })
	if n := got.of(flows); n < pressureFull/10 { // what gets in at once
		t.Errorf("%d of %d SYNs get in", n, len(flows))
	}
}

func testPressure(t *testing.T, source, pressed, calm string) {
	s, g, got := pressedSite(t, guardConfig())
	next := 0
	sources := func(n int) []string { next += n; return sourcesOf(source, next-n, n) }
	send := func(list []string, dst string) []string { return synsFrom(s.client, list, dst) }
	refused := func() uint64 { return refusedNow(t, g) }
	// In peace all get in.
	flows := send(sources(1000), pressed)
	eventually(t, "all SYNs", func() bool { return got.of(flows) == len(flows) })
	press := netip.MustParseAddrPort(pressed)
	eventually(t, "an answer within the time of a repetition", func() bool {
		g.pressNow([]netip.AddrPort{press})
		before, began := refused(), time.Now()
		first := sources(4 * pressureEach)
		flows := send(first, pressed)
		eventually(t, "each SYN here or there", func() bool { return got.of(flows)+int(refused()-before) == len(flows) })
		var again []string
		for i := range flows {
			if got.of(flows[i:i+1]) == 0 {
				again = append(again, first[i])
			}
		}
		between := refused()
		flows = send(again, pressed)
		t.Logf("%d of %d SYNs are dropped", len(again), len(first))
		eventually(t, "each repetition here or there", func() bool { return got.of(flows)+int(refused()-between) == len(flows) })
		if time.Since(began) > pressureRepeat {
			return false // a busy machine
		}
		if refused() != between {
			t.Fatalf("%d of %d repeated SYNs are dropped", refused()-between, len(again))
		}
		return len(again) > pressureEach
	})
	// Said again, it holds for longer.
	left := func() time.Duration {
		g.mu.Lock()
		defer g.mu.Unlock()
		elems, err := g.conn.GetSetElements(&nftables.Set{Table: g.table(), Name: "pressed" + familyOf(press.Addr()).suffix, HasTimeout: true})
		if err != nil || len(elems) != 1 {
			t.Fatalf("%d addresses are under pressure, %v", len(elems), err)
		}
		return elems[0].Expires
	}
	eventually(t, "time goes by", func() bool { return left() < pressureLife-pressureLife/50 })
	g.mu.Lock()
	clear(g.pressed)
	g.mu.Unlock()
	was := left()
	if g.pressNow([]netip.AddrPort{press}); left() <= was {
		t.Errorf("it is under pressure for %v, and was for %v", left(), was)
	}
	before := refused()
	flows = send(sources(4*pressureEach), calm)
	eventually(t, "all SYNs to another port", func() bool { return got.of(flows) == len(flows) })
	if refused() != before {
		t.Error("SYNs to another port are dropped")
	}
	eventually(t, "the count", func() bool { return g.Refused()[refusedFlood] == refused() })
}
