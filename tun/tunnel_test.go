package tun

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
)

// twoSites are two appliances, each with hosts of its own, and a sync network between them.
type twoSites struct {
	a, b   *site
	da, db Device
	ra, rb *Routes
}

// newTwoSites makes them; the first one's device has several queues.
func newTwoSites(t *testing.T, queues int) *twoSites {
	w := &twoSites{a: newSite(t), b: newSite(t)}
	veth(w.a.gw, "sync", w.b.gw, "sync")
	install := func(s *site, local, remote string, queues int) (Device, *Routes) {
		s.gw.run(func() error { return s.gw.addr("sync", local+"/24") })
		d := in(s.gw, func() ([]Device, error) { return OpenQueues(tunName, 1500, queues) })[0]
		t.Cleanup(func() { d.Close() })
		cfg := testConfig()
		cfg.Tunnel = TunnelConfig{Name: "ls1", Local: netip.MustParseAddr(local), Remote: netip.MustParseAddr(remote), Port: 7400, MTU: 1500}
		r := in(s.gw, func() (*Routes, error) { return InstallRoutes(cfg) })
		t.Cleanup(func() { r.Close() })
		a := in(s.gw, func() (*Announcer, error) {
			return NewAnnouncer(AnnouncerConfig{Interface: "back", Addrs: []netip.Addr{netip.MustParseAddr("10.20.0.1"), netip.MustParseAddr("fd20::1")}})
		})
		t.Cleanup(func() { a.Close() })
		a.Activate()
		return d, r
	}
	w.da, w.ra = install(w.a, "10.30.0.1", "10.30.0.2", queues)
	w.db, w.rb = install(w.b, "10.30.0.2", "10.30.0.1", 1)
	w.b.gw.run(func() error { return w.rb.OpenTunnel(0x12345678, nil) })
	return w
}

// protected are segments of both families, of clients and of servers.
var protected = []struct{ src, dst string }{
	{"10.1.0.1:4001", "203.0.113.10:80"}, {"[fd01::1]:4001", "[2001:db8::10]:80"},
	{"10.20.0.11:80", "10.1.0.1:4002"}, {"[fd20::11]:80", "[fd01::1]:4002"},
}

func (w *twoSites) send(t *testing.T, i int) {
	from := w.a.client
	if i > 1 {
		from = w.a.server
	}
	rawSend(t, from, segment(protected[i].src, protected[i].dst, 64))
}

// sent is how many packets have gone into a site's tunnel.
func (s *site) sent(t *testing.T) uint64 {
	l := in(s.gw, func() (netlink.Link, error) { return netlink.LinkByName("ls1") })
	return l.Attrs().Statistics.TxPackets
}

// When a process has died, its kernel gives what arrives to the peer, whose TUN device gets it; and
// when that process is dead as well, nobody gets it, nor is it sent back.
func TestKernelHandsOn(t *testing.T) {
	w := newTwoSites(t, 1)
	w.a.gw.run(func() error { return w.ra.OpenTunnel(0x12345678, nil) })
	got := packets(t, w.db)
	w.da.Close()
	for i, c := range protected {
		w.send(t, i)
		await(t, got, c.src+" to "+c.dst, func(p []byte) bool { return flow(p) == c.src+" > "+c.dst })
	}
	before := w.b.sent(t)
	w.db.Close()
	handed := w.a.sent(t)
	for i := range protected {
		w.send(t, i)
	}
	eventually(t, "all are handed on", func() bool { return w.a.sent(t) >= handed+uint64(len(protected)) })
	if n := w.b.sent(t); n != before {
		t.Errorf("%d packets were sent back", n-before)
	}
}

// What lies in the queues of a device whose process dies, and of one that hangs when its successor says so,
// is given to the peer: of several flows, so that something lies in each queue. So it is by a keeper that has taken the
// place of one that was killed.
func TestKeeperHandsOn(t *testing.T) {
	for _, c := range []struct {
		dies   bool
		queues int
		second bool
	}{{true, 1, false}, {false, 1, false}, {true, 3, false}, {false, 3, false}, {true, 1, true}, {false, 3, true}} {
		w := newTwoSites(t, c.queues)
		ends := make(chan error, 2)
		k := in(w.a.gw, func() (*Keeper, error) { return StartKeeper(w.da, func(err error) { ends <- err }) })
		t.Cleanup(func() { _ = k.Close() })
		w.a.gw.run(func() error { return w.ra.OpenTunnel(0x12345678, k) })
		other := in(w.b.gw, func() (*Keeper, error) { return StartKeeper(w.db, func(err error) { t.Error(err) }) })
		t.Cleanup(func() {
			if err := other.Close(); err != nil {
				t.Error(err)
			}
		})
		for _, number := range []uint32{1, 0x12345678} { // as of two sessions
			w.b.gw.run(func() error { return w.rb.OpenTunnel(number, other) })
		}
		if c.second {
			if err := k.proc.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := <-ends; err == nil {
				t.Error("its end is not told")
			}
			if err := <-ends; err != nil {
				t.Error("and not that there is another one:", err)
			}
		}
		got := packets(t, w.db)
		for i := range protected {
			w.send(t, i)
		}
		const flows = 40 // none in one of three queues: once in some million times
		for i := range flows {
			rawSend(t, w.a.client, segment(fmt.Sprintf("10.1.0.1:%d", 5000+i), "203.0.113.10:80", 64))
		}
		if n := w.a.sent(t); n > 20 { // what the kernel says of itself there is less
			t.Fatalf("%d packets were handed on before", n)
		}
		if c.dies {
			k.closing.Store(true)
			k.control.Close() // as by exit(2)
			w.da.Close()
		} else if err := other.Succeed(); err != nil {
			t.Fatal(err)
		}
		want := map[string]bool{}
		for _, c := range protected {
			want[c.src+" > "+c.dst] = true
		}
		for i := range flows {
			want[fmt.Sprintf("10.1.0.1:%d > 203.0.113.10:80", 5000+i)] = true
		}
		await(t, got, "all that was queued", func(p []byte) bool { delete(want, flow(p)); return len(want) == 0 })
	}
}
