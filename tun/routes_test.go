package tun

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	testTable    = 7400
	testPriority = 1000
	tunName      = "ls0"
)

// site is one appliance between a client and a server:
//
//	client eth0 10.1.0.1, fd01::1 --- front gw back --- eth0 10.20.0.11, fd20::11 server
//	default via 10.1.0.254                              default via 10.20.0.1 (floating)
//
// The appliance's kernel has no address on the back network: the floating
// gateway address is answered for by an announcer.
type site struct {
	client, gw, server *testNS
}

func newSite(t testing.TB) *site {
	s := &site{client: newNS(t), gw: newNS(t), server: newNS(t)}
	for _, n := range []*testNS{s.client, s.gw, s.server} {
		n.run(func() error { return sysctl("ipv6/conf/default/accept_dad", "0") })
	}
	veth(s.client, "eth0", s.gw, "front")
	veth(s.gw, "back", s.server, "eth0")
	s.gw.run(func() error {
		// As strict as a distribution may be: the TUN device must work all the same.
		if err := sysctl("ipv4/conf/all/rp_filter", "1"); err != nil {
			return err
		}
		return s.gw.addr("front", "10.1.0.254/24", "fd01::fe/64")
	})
	s.client.run(func() error {
		return errors.Join(s.client.addr("eth0", "10.1.0.1/24", "fd01::1/64"),
			s.client.via("0.0.0.0/0", "10.1.0.254"), s.client.via("::/0", "fd01::fe"))
	})
	s.server.run(func() error {
		return errors.Join(s.server.addr("eth0", "10.20.0.11/24", "fd20::11/64"),
			s.server.via("0.0.0.0/0", "10.20.0.1"), s.server.via("::/0", "fd20::1"))
	})
	return s
}

func testConfig() RouteConfig {
	return RouteConfig{
		TUN: tunName, Front: "front", Back: "back", Table: testTable, RulePriority: testPriority,
		Virtual: []netip.Addr{
			netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("2001:db8::10"),
			netip.MustParseAddr("10.20.0.1"), netip.MustParseAddr("fd20::1"), netip.MustParseAddr("203.0.113.10"),
		},
		Servers: []netip.AddrPort{
			netip.MustParseAddrPort("10.20.0.11:80"), netip.MustParseAddrPort("[fd20::11]:80"), netip.MustParseAddrPort("10.20.0.11:80"),
		},
		Gateways: []netip.Prefix{netip.MustParsePrefix("10.20.0.1/24"), netip.MustParsePrefix("fd20::1/64")},
	}
}

// install opens the device, installs routes and answers for the gateway.
func (s *site) install(t testing.TB) (Device, *Routes) {
	t.Helper()
	d := in(s.gw, func() (Device, error) { return Open(tunName, 1500) })
	t.Cleanup(func() { d.Close() })
	r := in(s.gw, func() (*Routes, error) { return InstallRoutes(testConfig()) })
	t.Cleanup(func() { r.Close() })
	a := in(s.gw, func() (*Announcer, error) {
		return NewAnnouncer(AnnouncerConfig{Interface: "back", Addrs: []netip.Addr{netip.MustParseAddr("10.20.0.1"), netip.MustParseAddr("fd20::1")}})
	})
	t.Cleanup(func() { a.Close() })
	a.Activate()
	return d, r
}

// packets reads the device until it closes.
func packets(t testing.TB, d Device) <-chan []byte {
	out := make(chan []byte, 256)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(out)
		hdr, buf := make([]byte, VnetHeaderLen), make([]byte, MaxPacketLen)
		for {
			n, err := d.ReadV([][]byte{hdr, buf})
			if err != nil {
				if !errors.Is(err, os.ErrClosed) {
					t.Errorf("read: %v", err)
				}
				return
			}
			select {
			case out <- bytes.Clone(buf[:n]):
			default: // a test that stopped looking
			}
		}
	}()
	t.Cleanup(func() { d.Close(); <-ended })
	return out
}

// flow is a TCP packet's four-tuple, "" for anything else.
func flow(p []byte) string {
	var src, dst netip.Addr
	var tcp []byte
	switch {
	case len(p) >= 40 && p[0]>>4 == 4 && p[9] == unix.IPPROTO_TCP:
		src, dst, tcp = netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20])), p[int(p[0]&15)*4:]
	case len(p) >= 60 && p[0]>>4 == 6 && p[6] == unix.IPPROTO_TCP:
		src, dst, tcp = netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40])), p[40:]
	default:
		return ""
	}
	return fmt.Sprintf("%s > %s", netip.AddrPortFrom(src, binary.BigEndian.Uint16(tcp)),
		netip.AddrPortFrom(dst, binary.BigEndian.Uint16(tcp[2:])))
}

// dialLater starts a connection attempt that nobody answers and ends it with the test.
func dialLater(t testing.TB, n *testNS, local, remote string) {
	t.Helper()
	n.run(func() error {
		l, r := netip.MustParseAddrPort(local), netip.MustParseAddrPort(remote)
		family, lsa, rsa := unix.AF_INET, sockaddr(l), sockaddr(r)
		if l.Addr().Is6() {
			family = unix.AF_INET6
		}
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		t.Cleanup(func() { unix.Close(fd) })
		if err := unix.Bind(fd, lsa); err != nil {
			return err
		}
		if err := unix.Connect(fd, rsa); err != unix.EINPROGRESS {
			return fmt.Errorf("connect to %s: %v", remote, err)
		}
		return nil
	})
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func TestProtectedSegmentsReachTheTUN(t *testing.T) {
	s := newSite(t)
	d, _ := s.install(t)
	got := packets(t, d)
	for _, c := range []struct {
		from          *testNS
		local, remote string
	}{
		{s.client, "10.1.0.1:4001", "203.0.113.10:80"},    // client to VIP
		{s.client, "[fd01::1]:4001", "[2001:db8::10]:80"}, //
		{s.server, "10.20.0.11:80", "10.1.0.1:4002"},      // server's port to a client's address
		{s.server, "[fd20::11]:80", "[fd01::1]:4002"},     //
		{s.server, "10.20.0.11:4003", "10.20.0.1:99"},     // anything to the floating gateway
		{s.server, "[fd20::11]:4003", "[fd20::1]:99"},     //
	} {
		dialLater(t, c.from, c.local, c.remote)
		want := c.local + " > " + c.remote
		for p := range got {
			if flow(p) == want {
				break
			}
			if flow(p) != "" && !strings.Contains(flow(p), ":400") {
				t.Fatalf("unexpected segment %s", flow(p))
			}
		}
	}
}

// TestWrittenSegmentsLeave: what the TUN device writes with a client's address
// as its source passes reverse path filtering and reaches the server.
func TestWrittenSegmentsLeave(t *testing.T) {
	s := newSite(t)
	d, _ := s.install(t)
	c := in(s.server, func() (net.PacketConn, error) { return net.ListenPacket("udp", "10.20.0.11:53") })
	defer c.Close()
	hdr := make([]byte, VnetHeaderLen)
	if err := d.WriteV([][]byte{hdr, udpPacket("10.1.0.1", "10.20.0.11", 5000, 53, []byte("relayed"))}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	c.SetDeadline(time.Now().Add(deadline))
	n, from, err := c.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "relayed" || from.String() != "10.1.0.1:5000" {
		t.Fatalf("%q from %v, %v", buf[:n], from, err)
	}
}

func TestEverythingElseIsForwarded(t *testing.T) {
	s := newSite(t)
	d, _ := s.install(t)
	got := packets(t, d)
	for _, ip := range []string{"10.20.0.11", "fd20::11"} {
		s.udpEcho(t, ip)
		s.ping(t, s.client, ip, nil)
		s.tcpDirect(t, ip)
	}
	d.Close()
	for p := range got {
		if flow(p) != "" {
			t.Errorf("an unprotected segment went into the TUN device: %s", flow(p))
		}
	}
}

// tcpDirect talks to a server's unprotected port.
func (s *site) tcpDirect(t *testing.T, ip string) {
	t.Helper()
	ln := in(s.server, func() (net.Listener, error) { return net.Listen("tcp", net.JoinHostPort(ip, "8080")) })
	defer ln.Close()
	c := in(s.client, func() (net.Conn, error) { return net.DialTimeout("tcp", ln.Addr().String(), deadline) })
	c.Close()
}

func (s *site) udpEcho(t *testing.T, ip string) {
	t.Helper()
	srv := in(s.server, func() (net.PacketConn, error) { return net.ListenPacket("udp", net.JoinHostPort(ip, "7")) })
	defer srv.Close()
	c := in(s.client, func() (net.Conn, error) { return net.Dial("udp", srv.LocalAddr().String()) })
	defer c.Close()
	if _, err := c.Write([]byte("there")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	srv.SetDeadline(time.Now().Add(deadline))
	c.SetDeadline(time.Now().Add(deadline))
	n, from, err := srv.ReadFrom(buf)
	if err != nil || from.String() != c.LocalAddr().String() {
		t.Fatalf("server got %q from %v, want %v, %v", buf[:n], from, c.LocalAddr(), err)
	}
	if _, err := srv.WriteTo([]byte("back"), from); err != nil {
		t.Fatal(err)
	}
	if n, err = c.Read(buf); err != nil || string(buf[:n]) != "back" {
		t.Fatalf("client got %q, %v", buf[:n], err)
	}
}

// ping sends one echo request from n and waits for the answer. before, if not
// nil, runs once the ICMP socket is open; every other ICMP message that comes
// before the answer is returned.
func (s *site) ping(t *testing.T, n *testNS, ip string, before func()) (others [][]byte) {
	t.Helper()
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if netip.MustParseAddr(ip).Is6() {
		network, request, reply = "ip6:58", 128, 129
	}
	c := in(n, func() (net.Conn, error) { return net.Dial(network, ip) })
	defer c.Close()
	all := in(n, func() (net.PacketConn, error) {
		return net.ListenPacket(network, map[bool]string{true: "::", false: "0.0.0.0"}[request == 128])
	})
	defer all.Close()
	if before != nil {
		before()
	}
	msg := []byte{request, 0, 0, 0, 0x4c, 0x53, 0, 1} // the kernel fills an ICMPv6 checksum in
	if request == 8 {
		binary.BigEndian.PutUint16(msg[2:], inetChecksum(msg))
	}
	if _, err := c.Write(msg); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2048)
	all.SetDeadline(time.Now().Add(deadline))
	for {
		k, _, err := all.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case k >= 8 && buf[0] == reply && bytes.Equal(buf[4:8], msg[4:8]):
			return others
		case request == 128 && buf[0] >= 130 && buf[0] != 137: // MLD and neighbour discovery, but for redirects
		case buf[0] != request:
			others = append(others, bytes.Clone(buf[:k]))
		}
	}
}

// TestPathMTUIsReported: what this host has to say of packets that are none of ours
// gets to whom it is for, through the TUN device and back.
func TestPathMTUIsReported(t *testing.T) {
	s := newSite(t)
	d, _ := s.install(t)
	handBack(t, d)
	s.setMTU(t, 1400)
	for _, c := range []struct {
		remote                   string
		level, discover, do, mtu int
	}{
		{"10.20.0.11:9", unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO, unix.IP_MTU},
		{"[fd20::11]:9", unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO, unix.IPV6_MTU},
	} {
		conn := in(s.client, func() (net.Conn, error) { return net.Dial("udp", c.remote) })
		defer conn.Close()
		raw, err := conn.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), c.level, c.discover, c.do) })
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "path MTU 1400 to "+c.remote, func() bool {
			_, _ = conn.Write(make([]byte, 1440)) // EMSGSIZE once the report is in
			var mtu int
			raw.Control(func(fd uintptr) { mtu, err = unix.GetsockoptInt(int(fd), c.level, c.mtu) })
			return err == nil && mtu == 1400
		})
	}
}

// handBack does with everything what the engine does with what is not its own.
func handBack(t *testing.T, d Device) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		hdr, buf := make([]byte, VnetHeaderLen), make([]byte, MaxPacketLen)
		for {
			n, err := d.ReadV([][]byte{hdr, buf})
			if err != nil {
				return
			}
			if err := d.WriteV([][]byte{hdr, buf[:n]}); err != nil {
				t.Errorf("write back: %v", err)
			}
		}
	}()
	t.Cleanup(func() { d.Close(); <-ended })
}

func TestNoChatterOnTheTUN(t *testing.T) {
	s := newSite(t)
	d, _ := s.install(t)
	got := packets(t, d)
	// The SYN comes after whatever the kernel said when the link came up.
	dialLater(t, s.client, "[fd01::1]:4001", "[2001:db8::10]:80")
	for p := range got {
		if flow(p) != "" {
			break
		}
		if p[0]>>4 != 6 || p[6] != 0 { // MLD reports carry a hop-by-hop header
			t.Errorf("the kernel said % x", p)
		}
		t.Logf("chatter: % x", p)
	}
}
