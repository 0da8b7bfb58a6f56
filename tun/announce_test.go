package tun

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

const (
	vip4 = "10.1.0.10"
	vip6 = "fd01::10"
)

// lan is a client and two appliances on one bridge, which is the client's:
//
//	client (br0 10.1.0.1, fd01::1) --- p0 --- eth0 a
//	                               \-- p1 --- eth0 b
type lan struct {
	client *testNS
	node   [2]*testNS
}

func newLAN(t *testing.T) *lan {
	l := &lan{client: newNS(t), node: [2]*testNS{newNS(t), newNS(t)}}
	for i, n := range l.node {
		n.run(func() error { return sysctl("ipv6/conf/default/accept_dad", "0") })
		veth(l.client, []string{"p0", "p1"}[i], n, "eth0")
	}
	l.client.run(func() error {
		la := netlink.NewLinkAttrs()
		la.Name = "br0"
		br := &netlink.Bridge{LinkAttrs: la}
		if err := netlink.LinkAdd(br); err != nil {
			return err
		}
		for _, p := range []string{"p0", "p1"} {
			port, err := netlink.LinkByName(p)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetMaster(port, br); err != nil {
				return err
			}
		}
		// Fail a resolution quickly, so that the tests need not wait for it.
		for _, f := range []string{"ipv4", "ipv6"} {
			for k, v := range map[string]string{"retrans_time_ms": "20", "mcast_solicit": "2", "gc_stale_time": "600"} {
				if err := sysctl(f+"/neigh/br0/"+k, v); err != nil {
					return err
				}
			}
		}
		if err := l.client.up("br0"); err != nil {
			return err
		}
		return l.client.addr("br0", "10.1.0.1/24", "fd01::1/64")
	})
	return l
}

func (l *lan) announcer(t *testing.T, i int) *Announcer {
	t.Helper()
	return l.announcerThat(t, i, nil)
}

// announcerThat is one that asks may before it speaks.
func (l *lan) announcerThat(t *testing.T, i int, may func() bool) *Announcer {
	t.Helper()
	a := in(l.node[i], func() (*Announcer, error) {
		return NewAnnouncer(AnnouncerConfig{
			Interface: "eth0",
			Addrs:     []netip.Addr{netip.MustParseAddr(vip4), netip.MustParseAddr(vip6), netip.MustParseAddr(vip4)},
			May:       may,
		})
	})
	t.Cleanup(func() { a.Close() })
	return a
}

func (l *lan) mac(i int) net.HardwareAddr {
	return in(l.node[i], func() (net.HardwareAddr, error) {
		n, err := ReadNIC("eth0")
		return n.MAC, err
	})
}

// neighbour is the client's cache entry for ip.
func (l *lan) neighbour(ip string) (mac net.HardwareAddr, state int) {
	l.client.run(func() error {
		br, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		list, err := netlink.NeighList(br.Attrs().Index, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, n := range list {
			if n.IP.Equal(net.ParseIP(ip)) {
				mac, state = n.HardwareAddr, n.State
			}
		}
		return nil
	})
	return mac, state
}

// poke makes the client's kernel send something to ip.
func (l *lan) poke(ip string) {
	l.client.run(func() error {
		c, err := net.Dial("udp", net.JoinHostPort(ip, "9"))
		if err != nil {
			return err
		}
		defer c.Close()
		_, _ = c.Write([]byte("x")) // may report the last resolution's failure
		return nil
	})
}

// wantMAC waits until the client's kernel has ip at mac.
func (l *lan) wantMAC(t *testing.T, ip string, mac net.HardwareAddr) {
	t.Helper()
	const valid = unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE
	eventually(t, "client has "+ip+" at "+mac.String(), func() bool {
		got, state := l.neighbour(ip)
		return state&valid != 0 && bytes.Equal(got, mac)
	})
}

func TestKernelResolvesOnlyWhenActive(t *testing.T) {
	l := newLAN(t)
	a := l.announcer(t, 0)
	for _, ip := range []string{vip4, vip6} {
		l.poke(ip)
		eventually(t, "resolution of "+ip+" fails while inactive", func() bool {
			_, state := l.neighbour(ip)
			return state == unix.NUD_FAILED
		})
	}
	if s := a.stats(); s.Answered != 0 || s.Announced != 0 {
		t.Fatalf("an inactive announcer spoke: %+v", s)
	}
	a.Activate()
	if s := a.stats(); s.Announced != 3 { // two for IPv4, one for IPv6
		t.Fatalf("Activate returned before it announced: %+v", s)
	}
	// From the announcement: the failed entry was still there. (For IPv6 Linux
	// ignores advertisements for a failed entry and asks at the next packet.)
	l.wantMAC(t, vip4, l.mac(0))
	for _, ip := range []string{vip4, vip6} {
		l.forget(ip)
		l.poke(ip)
		l.wantMAC(t, ip, l.mac(0)) // by asking
	}
	// An answer is counted when it has been sent: the client may have it before.
	eventually(t, "both answers are counted", func() bool { return a.stats().Answered >= 2 })
	if s := a.stats(); s.BadFrames != 0 || s.SendErrors != 0 {
		t.Fatalf("stats %+v", s)
	}
	eventually(t, "all announcements of the first second", func() bool {
		return a.stats().Announced == uint64(3*len(burstAt()))
	})
	a.Deactivate()
	answered := a.stats().Answered
	for _, ip := range []string{vip4, vip6} {
		l.forget(ip)
		l.poke(ip)
		eventually(t, "resolution of "+ip+" fails after Deactivate", func() bool {
			_, state := l.neighbour(ip)
			return state == unix.NUD_FAILED
		})
	}
	if s := a.stats(); s.Answered != answered {
		t.Fatalf("answered after Deactivate: %+v", s)
	}
}

// forget deletes the client's cache entry.
func (l *lan) forget(ip string) {
	l.client.run(func() error {
		br, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		err = netlink.NeighDel(&netlink.Neigh{LinkIndex: br.Attrs().Index, IP: net.ParseIP(ip)})
		if errors.Is(err, unix.ENOENT) {
			return nil // the kernel forgot by itself
		}
		return err
	})
}

func TestHandOverUpdatesNeighbours(t *testing.T) {
	l := newLAN(t)
	a, b := l.announcer(t, 0), l.announcer(t, 1)
	a.Activate()
	for _, ip := range []string{vip4, vip6} {
		l.poke(ip)
		l.wantMAC(t, ip, l.mac(0))
	}
	a.Deactivate()
	heardAll(t, a, b)
	b.Activate()
	for _, ip := range []string{vip4, vip6} {
		l.wantMAC(t, ip, l.mac(1))
	}
	b.Deactivate()
	heardAll(t, b, a)
	a.Activate()
	for _, ip := range []string{vip4, vip6} {
		l.wantMAC(t, ip, l.mac(0))
	}
	if a.stats().Conflicts+b.stats().Conflicts != 0 {
		t.Fatalf("an orderly hand-over counted as conflict: %+v %+v", a.stats(), b.stats())
	}
}

// heardAll waits until to has taken in every announcement of from, which is
// inactive now: none is left on the wire that could look like a claim of later.
func heardAll(t *testing.T, from, to *Announcer) {
	t.Helper()
	eventually(t, "all announcements have arrived", func() bool {
		return to.stats().Claims == from.stats().Announced
	})
}

// TestQueuedClaimIsNoConflict: what the former active said, and nobody had read
// when this one was activated, is no claim against it.
func TestQueuedClaimIsNoConflict(t *testing.T) {
	l := newLAN(t)
	var pair [2]*Announcer // for IPv4 alone: no frame but theirs reaches their sockets
	for i := range pair {
		pair[i] = in(l.node[i], func() (*Announcer, error) {
			return NewAnnouncer(AnnouncerConfig{Interface: "eth0", Addrs: []netip.Addr{netip.MustParseAddr(vip4)}})
		})
		t.Cleanup(func() { pair[i].Close() })
	}
	a, b := pair[0], pair[1]
	b.mu.Lock() // b's reader waits
	a.Activate()
	a.Deactivate()
	var queued uint32
	eventually(t, "both frames are queued", func() bool {
		_ = b.socks.arp.raw.Control(func(fd uintptr) {
			if st, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
				queued += st.Packets // since the last look
			}
		})
		return queued == 2
	})
	b.mu.Unlock()
	b.Activate() // it, or the reader, takes them first
	eventually(t, "both are heard", func() bool { s := b.stats(); return s.Claims+s.Conflicts == 2 })
	if s := b.stats(); s.Conflicts != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestConflictIsReported(t *testing.T) {
	l := newLAN(t)
	a, b := l.announcer(t, 0), l.announcer(t, 1)
	a.Activate()
	b.Activate()
	c := <-a.Conflicts()
	if !bytes.Equal(c.MAC, l.mac(1)) || c.Interface != "eth0" || c.Addr != netip.MustParseAddr(vip4) && c.Addr != netip.MustParseAddr(vip6) {
		t.Fatalf("conflict %+v", c)
	}
	if c := <-b.Conflicts(); !bytes.Equal(c.MAC, l.mac(0)) {
		t.Fatalf("conflict %+v", c)
	}
	a.Deactivate()
	select {
	case c := <-a.Conflicts():
		t.Fatalf("inactive announcer reports %+v", c)
	default:
	}
}

// TestProbesAreAnswered: another kernel that tries to configure the address
// itself must see that it is taken.
func TestProbesAreAnswered(t *testing.T) {
	l := newLAN(t)
	a := l.announcer(t, 0)
	a.Activate()
	l.client.run(func() error {
		if err := sysctl("ipv6/conf/br0/accept_dad", "1"); err != nil {
			return err
		}
		br, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(vip6 + "/64")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(br, addr) // with duplicate address detection
	})
	eventually(t, "the kernel notices the duplicate", func() bool {
		return in(l.client, func() (bool, error) {
			br, err := netlink.LinkByName("br0")
			if err != nil {
				return false, err
			}
			addrs, err := netlink.AddrList(br, netlink.FAMILY_V6)
			for _, x := range addrs {
				if x.IP.Equal(net.ParseIP(vip6)) && x.Flags&unix.IFA_F_DADFAILED != 0 {
					return true, err
				}
			}
			return false, err
		})
	})
}

func TestAnnouncerFollowsInterface(t *testing.T) {
	l := newLAN(t)
	a := l.announcer(t, 0)
	a.Activate()
	for _, ip := range []string{vip4, vip6} {
		l.poke(ip)
		l.wantMAC(t, ip, l.mac(0))
	}
	// A new MAC, the link going down and up with it.
	newMAC := net.HardwareAddr{2, 0, 0, 0, 0, 0x77}
	l.node[0].run(func() error {
		e, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetDown(e); err != nil {
			return err
		}
		if err := netlink.LinkSetHardwareAddr(e, newMAC); err != nil {
			return err
		}
		return netlink.LinkSetUp(e)
	})
	for _, ip := range []string{vip4, vip6} {
		l.wantMAC(t, ip, newMAC)
	}
	// Deleted and made again: another index.
	l.node[0].run(func() error {
		e, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(e)
	})
	a.Activate() // with no interface: counted, not fatal
	if a.stats().SendErrors == 0 {
		eventually(t, "sending without interface fails", func() bool { a.Activate(); return a.stats().SendErrors > 0 })
	}
	veth(l.client, "p0", l.node[0], "eth0")
	l.client.run(func() error {
		p, err := netlink.LinkByName("p0")
		if err != nil {
			return err
		}
		br, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		return netlink.LinkSetMaster(p, br)
	})
	mac := l.mac(0)
	for _, ip := range []string{vip4, vip6} {
		eventually(t, ip+" is answered on the new interface", func() bool {
			l.poke(ip)
			got, _ := l.neighbour(ip)
			return bytes.Equal(got, mac)
		})
	}
}

func TestAnnouncerCloseLeavesNothing(t *testing.T) {
	l := newLAN(t)
	ignore := goleak.IgnoreCurrent()
	a := l.announcer(t, 0)
	a.Activate()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a.Activate()
	announced := a.stats().Announced
	if announced != 3 {
		t.Fatalf("announced %d frames, also after Close", announced)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	goleak.VerifyNone(t, ignore)
}

func TestNewAnnouncerErrors(t *testing.T) {
	n := newNS(t)
	for _, c := range []struct{ iface, addr, want string }{
		{"nope", "10.0.0.1", `"nope"`},
		{"lo", "ff02::1", "unicast"},
		{"lo", "fe80::1%lo", "unicast"},
	} {
		n.run(func() error {
			a, err := NewAnnouncer(AnnouncerConfig{Interface: c.iface, Addrs: []netip.Addr{netip.MustParseAddr(c.addr)}})
			if err == nil {
				a.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s %s: %v, want %s in it", c.iface, c.addr, err, c.want)
			}
			return nil
		})
	}
}

// TestDefence: a client that believed a stranger's announcement is ours again, and who
// claims all the time does not make us announce all the time.
func TestDefence(t *testing.T) {
	l := newLAN(t)
	a, stranger := l.announcer(t, 0), l.announcer(t, 1)
	a.Activate()
	const each = 3 // frames per announcement: ARP request and reply, one advertisement
	eventually(t, "the announcements at the beginning have ended", func() bool {
		return a.stats().Announced == uint64(each*len(burstAt()))
	})
	for _, ip := range []string{vip4, vip6} {
		l.poke(ip)
		eventually(t, "the client knows "+ip, func() bool { mac, _ := l.neighbour(ip); return bytes.Equal(mac, l.mac(0)) })
	}
	stranger.mu.Lock()
	stranger.announceLocked()
	stranger.mu.Unlock()
	<-a.Conflicts()
	before, start := a.stats().Announced, time.Now()
	a.Defend()
	for _, ip := range []string{vip4, vip6} {
		eventually(t, "the client is ours again at "+ip, func() bool { mac, _ := l.neighbour(ip); return bytes.Equal(mac, l.mac(0)) })
	}
	for range 100_000 {
		a.Defend()
	}
	eventually(t, "it is repeated", func() bool { return a.stats().Announced >= before+3*each })
	sent := a.stats().Announced - before
	if most := each * (uint64(time.Since(start)/defendEvery) + 1); sent > most {
		t.Errorf("%d frames in %v, at most %d are allowed", sent, time.Since(start), most)
	}
	a.Deactivate()
	sent = a.stats().Announced
	a.Defend()
	<-time.After(2 * defendEvery) // nothing shows that nothing will come
	if n := a.stats().Announced; n != sent {
		t.Errorf("%d frames left after it let go", n-sent)
	}
}
