package tun

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
)

// bigSegment is a TCP segment of n bytes that must not be fragmented, without a
// checksum: whoever cannot pass it on does not look at that.
func bigSegment(src, dst string, n int) []byte {
	s, d := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	b := make([]byte, n)
	tcp := b[20:]
	if s.Addr().Is6() {
		tcp = b[40:]
		b[0], b[6], b[7] = 0x60, 6, 64
		binary.BigEndian.PutUint16(b[4:], uint16(len(tcp)))
		copy(b[8:], s.Addr().AsSlice())
		copy(b[24:], d.Addr().AsSlice())
	} else {
		b[0], b[6], b[8], b[9] = 0x45, 0x40, 64, 6
		binary.BigEndian.PutUint16(b[2:], uint16(n))
		copy(b[12:], s.Addr().AsSlice())
		copy(b[16:], d.Addr().AsSlice())
		binary.BigEndian.PutUint16(b[10:], inetChecksum(b[:20]))
	}
	binary.BigEndian.PutUint16(tcp, s.Port())
	binary.BigEndian.PutUint16(tcp[2:], d.Port())
	tcp[12], tcp[13] = 0x50, 0x10
	return b
}

// quotes reports whether p is an ICMP error that asks for packets of mtu bytes and
// quotes segment.
func quotes(p, segment []byte, mtu int) bool {
	if len(p) > 28+28 && p[0] == 0x45 && segment[0] == 0x45 {
		// TTL and header checksum have changed on the way.
		return p[9] == 1 && p[20] == 3 && p[21] == 4 && int(binary.BigEndian.Uint16(p[26:])) == mtu && bytes.Equal(p[28+12:28+28], segment[12:28])
	}
	return len(p) > 48+48 && p[0]>>4 == 6 && p[6] == 58 && p[40] == 2 && int(binary.BigEndian.Uint32(p[44:])) == mtu &&
		bytes.Equal(p[48+8:48+48], segment[8:48])
}

func await(t *testing.T, got <-chan []byte, what string, cond func([]byte) bool) {
	t.Helper()
	for p := range got {
		if cond(p) {
			return
		}
	}
	t.Fatal("never came: " + what)
}

// What does not fit through the appliance's own back NIC is refused by its kernel,
// in a message to the client, whose address the segment has: the TUN device gets it.
func TestOwnPathMTUReachesTheTUN(t *testing.T) {
	s := newSite(t)
	d, _ := s.install(t)
	s.setMTU(t, 1300)
	got := packets(t, d)
	for _, c := range [][2]string{{"10.1.0.1:4001", "10.20.0.11:80"}, {"[fd01::1]:4001", "[fd20::11]:80"}} {
		seg := bigSegment(c[0], c[1], 1400)
		if err := d.WriteV([][]byte{make([]byte, VnetHeaderLen), seg}); err != nil {
			t.Fatal(err)
		}
		await(t, got, "error about "+c[1], func(p []byte) bool { return quotes(p, seg, 1300) })
	}
}

func (s *site) setMTU(t *testing.T, mtu int) {
	for _, e := range []struct {
		n    *testNS
		name string
	}{{s.gw, "back"}, {s.server, "eth0"}} {
		e.n.run(func() error {
			l, err := netlink.LinkByName(e.name)
			if err != nil {
				return err
			}
			return netlink.LinkSetMTU(l, mtu)
		})
	}
}

// A router behind the back network says it to the client as well: the tap hears it.
func TestErrorTap(t *testing.T) {
	s := newSite(t)
	d, _ := s.install(t)
	heard := make(chan []byte, 64)
	tap := in(s.gw, func() (*ErrorTap, error) {
		return TapErrors("back", true, func(b []byte) {
			select {
			case heard <- bytes.Clone(b):
			default:
			}
		}, nil)
	})
	t.Cleanup(func() { tap.Close() })
	// The server is that router: it forwards to a network with a small MTU.
	far := newNS(t)
	veth(s.server, "far", far, "eth0")
	s.server.run(func() error {
		for _, k := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			if err := sysctl(k, "1"); err != nil {
				return err
			}
		}
		if err := s.server.addr("far", "10.21.0.1/24", "fd21::1/64"); err != nil {
			return err
		}
		l, err := netlink.LinkByName("far")
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(l, 1300)
	})
	s.gw.run(func() error {
		return errors.Join(s.gw.behind("back", "10.21.0.0/24", "10.20.0.11"), s.gw.behind("back", "fd21::/64", "fd20::11"))
	})
	for _, c := range [][2]string{{"10.1.0.1:4001", "10.21.0.31:80"}, {"[fd01::1]:4001", "[fd21::31]:80"}} {
		seg := bigSegment(c[0], c[1], 1400)
		if err := d.WriteV([][]byte{make([]byte, VnetHeaderLen), seg}); err != nil {
			t.Fatal(err)
		}
		await(t, heard, "error about "+c[1], func(p []byte) bool { return quotes(p, seg, 1300) })
	}
}

// behind routes a network via a router on an interface, for use inside run.
func (n *testNS) behind(name, dst, gw string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{
		Dst: ipNet(netip.MustParsePrefix(dst)), Gw: netip.MustParseAddr(gw).AsSlice(),
		LinkIndex: l.Attrs().Index, Flags: int(netlink.FLAG_ONLINK),
	})
}
