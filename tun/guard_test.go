package tun

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
	nlmsg "github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

func guardConfig() GuardConfig {
	return GuardConfig{
		TUN: tunName, Front: "front", Back: "back", Strict: true,
		Virtual: []netip.Addr{netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("2001:db8::10")},
		Servers: []netip.AddrPort{netip.MustParseAddrPort("10.20.0.11:80"), netip.MustParseAddrPort("[fd20::11]:80")},
		Member:  netip.MustParseAddrPort("10.30.0.1:7400"), TunnelPort: 7401,
	}
}

func (s *site) guard(t *testing.T, cfg GuardConfig) *Guard {
	t.Helper()
	g := in(s.gw, func() (*Guard, error) { return InstallGuard(cfg) })
	t.Cleanup(func() { g.Close() })
	return g
}

// rawSend sends an IP packet from a namespace as it is, by its destination's route.
func rawSend(t *testing.T, n *testNS, pkt []byte) {
	t.Helper()
	n.run(func() error {
		family, sa := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte(pkt[16:20])})
		if pkt[0]>>4 == 6 {
			family, sa = unix.AF_INET6, &unix.SockaddrInet6{Addr: [16]byte(pkt[24:40])}
		}
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, pkt, 0, sa)
	})
}

// segment is a small TCP segment with a hop limit.
func segment(src, dst string, hops byte) []byte {
	b := bigSegment(src, dst, map[bool]int{true: 60, false: 40}[src[0] == '['])
	if b[0]>>4 == 6 {
		b[7] = hops
		return b
	}
	b[8] = hops
	binary.BigEndian.PutUint16(b[10:], 0)
	binary.BigEndian.PutUint16(b[10:], inetChecksum(b[:20]))
	return b
}

// Packets for a virtual address, and servers' segments, may have a hop limit of 1.
func TestLastHop(t *testing.T) {
	s := newSite(t)
	d, _ := s.install(t)
	s.guard(t, guardConfig())
	got := packets(t, d)
	for _, c := range []struct {
		from     *testNS
		src, dst string
	}{
		{s.client, "10.1.0.1:4001", "203.0.113.10:80"},
		{s.client, "[fd01::1]:4001", "[2001:db8::10]:80"},
		{s.server, "10.20.0.11:80", "10.1.0.1:4002"},
		{s.server, "[fd20::11]:80", "[fd01::1]:4002"},
	} {
		rawSend(t, c.from, segment(c.src, c.dst, 1))
		await(t, got, c.src+" to "+c.dst, func(p []byte) bool {
			if flow(p) != c.src+" > "+c.dst {
				return false
			}
			if p[0]>>4 == 4 && inetChecksum(p[:20]) != 0 {
				t.Errorf("header checksum of %s is wrong", flow(p))
			}
			return true
		})
	}
}

// What leaves has the configured hop limit on the wire, although routing has taken one.
func TestHopLimitOnTheWire(t *testing.T) {
	s := newSite(t)
	d, _ := s.install(t)
	cfg := guardConfig()
	for _, a := range []string{"203.0.113.10:80", "[2001:db8::10]:80", "10.20.0.11:80", "[fd20::11]:80"} {
		cfg.HopLimits = append(cfg.HopLimits, HopLimit{Addr: netip.MustParseAddrPort(a), Send: 255})
	}
	s.guard(t, cfg)
	for _, c := range []struct {
		at       *testNS
		src, dst string
	}{
		{s.client, "203.0.113.10:80", "10.1.0.1:4001"},
		{s.client, "[2001:db8::10]:80", "[fd01::1]:4001"},
		{s.server, "10.1.0.1:4001", "10.20.0.11:80"},
		{s.server, "[fd01::1]:4001", "[fd20::11]:80"},
	} {
		if hops := s.arrives(t, d, c.at, segment(c.src, c.dst, 64)); hops != 255 {
			t.Errorf("%s to %s arrives with %d", c.src, c.dst, hops)
		}
	}
}

// arrives writes a segment to the device and returns the hop limit with which it
// arrives at n.
func (s *site) arrives(t *testing.T, d Device, n *testNS, seg []byte) int {
	t.Helper()
	v6 := seg[0]>>4 == 6
	network, addr := "ip4:tcp", "0.0.0.0"
	if v6 {
		network, addr = "ip6:tcp", "::"
	}
	c := in(n, func() (net.PacketConn, error) { return net.ListenPacket(network, addr) })
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(deadline))
	p4, p6 := ipv4.NewPacketConn(c), ipv6.NewPacketConn(c)
	err := p4.SetControlMessage(ipv4.FlagTTL, true)
	if v6 {
		err = p6.SetControlMessage(ipv6.FlagHopLimit, true)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := d.WriteV([][]byte{make([]byte, VnetHeaderLen), seg}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2048)
	tcp := seg[20:]
	if v6 {
		tcp = seg[40:]
	}
	for {
		var k, hops int
		if v6 {
			var cm *ipv6.ControlMessage
			if k, cm, _, err = p6.ReadFrom(buf); err == nil {
				hops = cm.HopLimit
			}
		} else {
			var cm *ipv4.ControlMessage
			if k, cm, _, err = p4.ReadFrom(buf); err == nil {
				hops = cm.TTL
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		if k >= 4 && slices.Equal(buf[:4], tcp[:4]) {
			return hops
		}
	}
}

// What can only be forged does not get to the TUN device, and is counted.
func TestRefusedByInterface(t *testing.T) {
	s := newSite(t)
	d, _ := s.install(t)
	s.gw.run(func() error { // the kernel's own check is off, ours is what counts
		for _, k := range []string{"all", "front", "back"} {
			if err := sysctl("ipv4/conf/"+k+"/rp_filter", "0"); err != nil {
				return err
			}
		}
		return s.gw.addr("lo", "10.30.0.1/32")
	})
	cfg := guardConfig()
	cfg.HopLimits = []HopLimit{{Addr: netip.MustParseAddrPort("203.0.113.10:179"), Least: 255}}
	g := s.guard(t, cfg)
	got := packets(t, d)
	forged := []struct {
		from     *testNS
		src, dst string
		reason   string
	}{
		{s.server, "10.1.0.1:4009", "203.0.113.10:80", "client-from-back"},
		{s.server, "[fd01::1]:4009", "[2001:db8::10]:80", "client-from-back"},
		{s.client, "10.20.0.11:80", "10.20.0.1:40000", "server-from-front"},
		{s.client, "[fd20::11]:80", "[fd20::1]:40000", "server-from-front"},
		{s.client, "10.1.0.1:4001", "10.30.0.1:7400", "sync-from-elsewhere"},
		{s.server, "10.20.0.11:4001", "10.30.0.1:7400", "sync-from-elsewhere"},
		{s.client, "10.1.0.1:4001", "203.0.113.10:179", "hop-limit"},
	}
	want := map[string]uint64{}
	for _, c := range forged {
		rawSend(t, c.from, segment(c.src, c.dst, 64))
		want[c.reason]++
	}
	for _, from := range []*testNS{s.client, s.server} { // into the tunnel
		b := segment("10.1.0.1:4001", "10.30.0.1:7401", 64)
		b[9] = unix.IPPROTO_UDP
		binary.BigEndian.PutUint16(b[10:], 0)
		binary.BigEndian.PutUint16(b[10:], inetChecksum(b[:20]))
		rawSend(t, from, b)
		want["sync-from-elsewhere"]++
	}
	// True ones pass: a client's, a server's, and of a host beside the servers.
	for _, c := range []struct {
		from     *testNS
		src, dst string
	}{
		{s.client, "10.1.0.1:4001", "203.0.113.10:80"},
		{s.server, "10.20.0.11:80", "10.1.0.1:4001"},
		{s.server, "10.20.0.11:4001", "203.0.113.10:80"},
		{s.server, "[fd20::11]:4001", "[2001:db8::10]:80"},
		{s.client, "10.1.0.1:4002", "203.0.113.10:80"},
	} {
		rawSend(t, c.from, segment(c.src, c.dst, 64))
		await(t, got, c.src+" to "+c.dst, func(p []byte) bool {
			for _, f := range forged {
				if flow(p) == f.src+" > "+f.dst {
					t.Errorf("forged: %s", flow(p))
				}
			}
			return flow(p) == c.src+" > "+c.dst
		})
	}
	for reason, n := range want {
		eventually(t, reason, func() bool { return g.Refused()[reason] == n })
	}
}

// A table that somebody flushes comes back, with its counts; Close leaves none.
func TestGuardComesBack(t *testing.T) {
	s := newSite(t)
	s.install(t)
	g := s.guard(t, guardConfig())
	rawSend(t, s.client, segment("10.20.0.11:80", "10.20.0.1:40000", 64))
	eventually(t, "a refusal", func() bool { return g.Refused()[refusedFromFront] == 1 })
	c := in(s.gw, func() (*nftables.Conn, error) { return nftables.New(nftables.AsLasting()) })
	defer c.CloseLasting()
	c.FlushRuleset()
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	tables := func() int {
		list, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	eventually(t, "the table again", func() bool {
		g.mu.Lock() // the kernel lists a table a moment before its rules are in force
		defer g.mu.Unlock()
		return tables() == 1
	})
	rawSend(t, s.client, segment("10.20.0.11:80", "10.20.0.1:40000", 64))
	eventually(t, "a second refusal", func() bool { return g.Refused()[refusedFromFront] == 2 })
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if n := tables(); n != 0 {
		t.Errorf("%d tables left", n)
	}
}

// A kernel without nf_tables answers a whole batch with one error. It is told, and nobody
// waits for a second one.
func TestNoPacketFilter(t *testing.T) {
	asked := false
	without := nftables.WithTestDial(func(req []nlmsg.Message) ([]nlmsg.Message, error) {
		if len(req) == 0 {
			t.Error("waits for an answer that never comes")
			return nil, io.EOF
		}
		if asked {
			t.Error("asks for more after the error")
		}
		asked = true
		answer, err := nltest.Error(int(unix.EOPNOTSUPP), req)
		answer[0].Header.Flags = 0 // those of a request mean something else here
		return answer, err
	})
	if _, err := installGuard(guardConfig(), without); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("error %v", err)
	}
	asked = false
	if err := askFilter(without); !errors.Is(err, unix.EOPNOTSUPP) || !asked {
		t.Errorf("asked in advance: %v", err)
	}
}

// Whether there is a packet filter is told in advance, and nothing is left of the question.
func TestAskFilter(t *testing.T) {
	s := newSite(t)
	for range 2 {
		s.gw.run(AskFilter)
	}
	if all := in(s.gw, func() ([]*nftables.Table, error) { return new(nftables.Conn).ListTables() }); len(all) > 0 {
		t.Errorf("%d tables are there", len(all))
	}
}

// Rules or elements that somebody flushes come back although the table is still there.
func TestGuardIsWhole(t *testing.T) {
	s := newSite(t)
	s.install(t)
	cfg := guardConfig()
	cfg.HopLimits = []HopLimit{{Addr: netip.MustParseAddrPort("203.0.113.10:80"), Send: 255}}
	g := s.guard(t, cfg)
	c := in(s.gw, func() (*nftables.Conn, error) { return nftables.New(nftables.AsLasting()) })
	defer c.CloseLasting()
	rules := func(chain string) int {
		list, err := c.GetRules(g.table(), &nftables.Chain{Name: chain})
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	elements := func() int {
		list, err := c.GetSetElements(&nftables.Set{Table: g.table(), Name: "servers4"})
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	arriving := rules("arriving")
	if arriving == 0 || rules("leaving") != 1 || elements() != 1 {
		t.Fatalf("%d and %d rules, %d elements", arriving, rules("leaving"), elements())
	}
	for _, part := range []struct {
		name  string
		flush func()
		whole func() bool
	}{
		{"table", func() { c.FlushTable(g.table()) }, func() bool { return rules("arriving") == arriving && rules("leaving") == 1 }},
		{"chain", func() { c.FlushChain(&nftables.Chain{Table: g.table(), Name: "leaving"}) }, func() bool { return rules("leaving") == 1 }},
		{"set", func() { c.FlushSet(&nftables.Set{Table: g.table(), Name: "servers4"}) }, func() bool { return elements() == 1 }},
	} {
		part.flush()
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "what was in the "+part.name, part.whole)
	}
}

// A thousand services' rules get in, at once. Where the kernel's answers find no room nothing
// is left behind, and no answer is taken for another's.
func TestManyRules(t *testing.T) {
	s := newSite(t)
	cfg := guardConfig()
	for port := range uint16(1000) {
		cfg.HopLimits = append(cfg.HopLimits,
			HopLimit{Addr: netip.AddrPortFrom(cfg.Virtual[0], 1+port), Send: 255, Least: 255},
			HopLimit{Addr: netip.AddrPortFrom(cfg.Servers[1].Addr(), 1+port), Send: 255})
	}
	small := nftables.WithSockOptions(func(c *nlmsg.Conn) error { return c.SetReadBuffer(4096) })
	s.gw.run(func() error {
		if _, err := installGuard(cfg, small); !errors.Is(err, unix.ENOBUFS) {
			t.Errorf("error %v with a small buffer", err)
		}
		c, err := nftables.New()
		if err != nil {
			return err
		}
		list, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
		if len(list) > 0 {
			t.Error("a table is left behind")
		}
		return err
	})
	g := s.guard(t, cfg)
	whole := func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		_ = g.sock.SetReadDeadline(time.Now()) // however long the answer before this one has taken
		ok, err := g.complete()
		if err != nil {
			t.Error(err)
		}
		return ok
	}
	if !whole() {
		t.Error("something is missing")
	}
	// Later it is a fault, until it works again.
	g.mu.Lock()
	err := g.sock.SetReadBuffer(4096)
	g.putBack()
	err = errors.Join(err, g.sock.SetReadBuffer(guardBuffer))
	objs, oerr := g.conn.GetObjects(g.table())
	g.mu.Unlock()
	if err = errors.Join(err, oerr); err != nil || len(objs) > 0 {
		t.Errorf("%d counters are left behind, %v", len(objs), err)
	}
	if f := <-g.Faults(); len(f) != 1 {
		t.Errorf("told %v of a table that cannot be put back", f)
	}
	g.look()
	if f := <-g.Faults(); len(f) != 0 || !whole() {
		t.Errorf("told %v of a table that is back", f)
	}
}
