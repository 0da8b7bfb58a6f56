package steer_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lockstep/splice"
	"lockstep/tun"
	"lockstep/tun/steer"
)

// limit bounds every wait; nothing is measured against it.
const limit = 20 * time.Second

const (
	tunName = "lockstep9"
	mtu     = 1500
)

var (
	vip4, vip6       = netip.MustParseAddrPort("203.0.113.10:80"), netip.MustParseAddrPort("[2001:db8::10]:80")
	client4, client6 = netip.MustParseAddrPort("203.0.113.100:40000"), netip.MustParseAddrPort("[2001:db8::100]:40000")
	server4, server6 = netip.MustParseAddrPort("10.20.0.11:8080"), netip.MustParseAddrPort("[fd20::11]:8080")
	gateway4         = netip.MustParseAddrPort("10.20.0.1:5000")
)

// rig is a network namespace with two NICs, each a veth whose other end the test holds, and a TUN device.
type rig struct {
	t        *testing.T
	dev      tun.Device
	nics     [2]netlink.Link // front, back
	ends     [2]int          // packet sockets on the other ends
	in       chan []byte     // IP packets that came out of the TUN device
	steering *steer.Steering
	reverse  [2]bool // the strict reverse path filter is on
}

func config() steer.Config {
	return steer.Config{
		TUN: tunName, Front: "front", Back: "back", MTU: mtu, Strict: true,
		Listen: []netip.AddrPort{vip4, vip6}, AllFrom: []netip.AddrPort{server4, server6},
		Gateways: []netip.Addr{gateway4.Addr()}, VIPs: []netip.Addr{vip4.Addr(), vip6.Addr()},
		Servers: []netip.AddrPort{server4, server6}, From: []netip.AddrPort{vip4, vip6}, To: []netip.AddrPort{server4, server6},
	}
}

// newRig must be called by a test that runs on a thread of its own: see isolated.
func newRig(t *testing.T, cfg steer.Config) *rig {
	r := &rig{t: t, in: make(chan []byte, 100)}
	var err error
	if r.dev, err = tun.Open(tunName, mtu); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.dev.Close() })
	for i, name := range []string{"front", "back"} {
		other := name + "-x"
		r.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: other}))
		r.nics[i] = r.up(name)
		r.ends[i] = r.socket(r.up(other).Attrs().Index)
	}
	r.up(tunName)
	for _, name := range []string{"front", "back", "front-x", "back-x"} {
		r.carries(name)
	}
	for _, kv := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		r.must(os.WriteFile("/proc/sys/net/"+kv, []byte("1"), 0))
	}
	for i, addrs := range [2][]string{{"203.0.113.1/24", "2001:db8::1/64"}, {"10.20.0.2/24", "fd20::2/64"}} {
		for _, a := range addrs {
			addr, err := netlink.ParseAddr(a)
			r.must(err)
			addr.Flags = unix.IFA_F_NODAD
			r.must(netlink.AddrAdd(r.nics[i], addr))
		}
	}
	for i, hosts := range [2][]netip.AddrPort{{client4, client6}, {server4, server6}} {
		for _, h := range hosts {
			r.must(netlink.NeighSet(&netlink.Neigh{
				LinkIndex: r.nics[i].Attrs().Index, State: netlink.NUD_PERMANENT, IP: h.Addr().AsSlice(), HardwareAddr: otherMAC,
			}))
		}
	}
	if r.steering, err = steer.New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.must(r.steering.Close()) })
	r.look("")
	if why := r.steering.Why(); why != "" {
		t.Fatal(why)
	}
	go r.read()
	return r
}

// look is what the appliance does each second.
func (r *rig) look(obstacle string) {
	r.t.Helper()
	own, err := tun.OwnAddresses()
	r.must(err)
	r.steering.Look(steer.Around{Own: own, ReversePath: r.reverse, Obstacle: obstacle})
}

var otherMAC = net.HardwareAddr{2, 0, 0, 0, 0, 9}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) up(name string) netlink.Link {
	r.t.Helper()
	l, err := netlink.LinkByName(name)
	r.must(err)
	r.must(netlink.LinkSetUp(l))
	return l
}

// carries waits for the kernel to notice that a veth's other end is up: until then what it sends is dropped.
func (r *rig) carries(name string) {
	r.t.Helper()
	for began := time.Now(); ; runtime.Gosched() {
		l, err := netlink.LinkByName(name)
		r.must(err)
		if l.Attrs().OperState == netlink.OperUp {
			return
		}
		if time.Since(began) > limit {
			r.t.Fatalf("%s is %v", name, l.Attrs().OperState)
		}
	}
}

func (r *rig) socket(index int) int {
	r.t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	r.must(err)
	r.t.Cleanup(func() { unix.Close(fd) })
	r.must(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: index})) // ETH_P_ALL
	r.must(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(limit / time.Second)}))
	return fd
}

func (r *rig) read() {
	hdr, b := make([]byte, tun.VnetHeaderLen), make([]byte, tun.MaxPacketLen)
	for {
		n, err := r.dev.ReadV([][]byte{hdr, b})
		if err != nil {
			return
		}
		if b[0]>>4 == 6 && b[6] != unix.IPPROTO_TCP {
			continue // the kernel's own
		}
		r.in <- bytes.Clone(b[:n])
	}
}

// segment makes an IP packet with a TCP segment.
func segment(from, to netip.AddrPort, flags header.TCPFlags, payload int) []byte {
	ipLen := header.IPv4MinimumSize
	if from.Addr().Is6() {
		ipLen = header.IPv6MinimumSize
	}
	b := make([]byte, ipLen+header.TCPMinimumSize+payload)
	src, dst := tcpip.AddrFromSlice(from.Addr().AsSlice()), tcpip.AddrFromSlice(to.Addr().AsSlice())
	if from.Addr().Is6() {
		header.IPv6(b).Encode(&header.IPv6Fields{PayloadLength: uint16(len(b) - ipLen), TransportProtocol: header.TCPProtocolNumber, HopLimit: 64, SrcAddr: src, DstAddr: dst})
	} else {
		ip := header.IPv4(b)
		ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(b)), TTL: 64, Protocol: uint8(header.TCPProtocolNumber), SrcAddr: src, DstAddr: dst, Flags: header.IPv4FlagDontFragment})
		sum4(b)
	}
	tcp := header.TCP(b[ipLen:])
	tcp.Encode(&header.TCPFields{SrcPort: from.Port(), DstPort: to.Port(), SeqNum: 7, AckNum: 9, Flags: flags, WindowSize: 1000, DataOffset: header.TCPMinimumSize})
	x := header.PseudoHeaderChecksum(header.TCPProtocolNumber, src, dst, uint16(len(tcp)))
	tcp.SetChecksum(^checksum.Checksum(tcp, x))
	return b
}

// sum4 puts the right checksum into an IPv4 header.
func sum4(b []byte) {
	ip := header.IPv4(b)
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
}

// changed is a packet in which something is not as usual.
func changed(b []byte, f func([]byte)) []byte {
	f(b)
	if b[0]>>4 == 4 {
		sum4(b)
	}
	return b
}

// frame puts a packet behind a link layer's header.
func (r *rig) frame(nic int, b []byte) []byte {
	f := append(append(bytes.Clone(r.nics[nic].Attrs().HardwareAddr), otherMAC...), 8, 0)
	if b[0]>>4 == 6 {
		f[12], f[13] = 0x86, 0xdd
	}
	return append(f, b...)
}

func (r *rig) arrive(nic int, frame []byte) {
	r.t.Helper()
	_, err := unix.Write(r.ends[nic], frame)
	r.must(err)
}

// fewer is a packet with so many hops taken off.
func fewer(b []byte, hops byte) []byte {
	return changed(bytes.Clone(b), func(b []byte) {
		if b[0]>>4 == 6 {
			b[7] -= hops
		} else {
			b[8] -= hops
		}
	})
}

// gets awaits a packet out of the TUN device: b, one hop further.
func (r *rig) gets(what string, b []byte) {
	r.t.Helper()
	select {
	case got := <-r.in:
		if !bytes.Equal(got, fewer(b, 1)) {
			r.t.Fatalf("%s:\n%x came, want\n%x", what, got, fewer(b, 1))
		}
	case <-time.After(limit):
		r.t.Fatalf("%s: nothing comes", what)
	}
}

// isolated runs a test in a network namespace of its own, on a thread that ends with it.
func isolated(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("this test needs root, and CI is set")
		}
		t.Skip("needs root")
	}
	if err := steer.Ask(); err != nil {
		t.Fatalf("this test needs a kernel that can steer: %v", err)
	}
	t.Run("in", func(t *testing.T) {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Fatal(err)
		}
		f(t)
	})
}

const (
	ack   = header.TCPFlagAck
	syn   = header.TCPFlagSyn
	front = 0
	back  = 1
)

// What is taken on its way in, and what goes the kernel's way: the table of the kernel's rules has no routes to
// the TUN device here, so that nothing else comes out of it.
func TestIn(t *testing.T) {
	isolated(t, func(t *testing.T) {
		r := newRig(t, config())
		direct := netip.MustParseAddrPort("198.51.100.7:1234")
		takes := []struct {
			what string
			nic  int
			b    []byte
		}{
			{"client's segment", front, segment(client4, vip4, ack, 100)},
			{"client's segment, IPv6", front, segment(client6, vip6, ack, 100)},
			{"client's bare ACK", front, segment(client4, vip4, ack, 20)},
			{"full", front, segment(client4, vip4, ack, mtu-40)},
			{"reset", front, segment(client4, vip4, header.TCPFlagRst, 10)},
			{"DSCP", front, changed(segment(client4, vip4, ack, 10), func(b []byte) { b[1] = 0xb8 })},
			{"server's segment", back, segment(server4, client4, ack, 100)},
			{"server's segment, IPv6", back, segment(server6, client6, ack, 100)},
			{"server's SYN-ACK", back, segment(server4, client4, syn|ack, 10)},
			{"to the gateway's address", back, segment(server4, gateway4, ack, 100)},
		}
		leaves := []struct {
			what string
			nic  int
			b    []byte
		}{
			{"SYN", front, segment(client4, vip4, syn, 10)},
			{"SYN, IPv6", front, segment(client6, vip6, syn, 10)},
			{"server's SYN", back, segment(server4, client4, syn, 10)},
			{"other port", front, segment(client4, netip.AddrPortFrom(vip4.Addr(), 81), ack, 10)},
			{"other address", front, segment(client4, direct, ack, 10)},
			{"forged server", front, segment(server4, vip4, ack, 10)},
			{"forged, of this machine's own", front, segment(netip.MustParseAddrPort("203.0.113.1:999"), vip4, ack, 10)},
			{"forged, of this machine's own, IPv6", front, segment(netip.MustParseAddrPort("[2001:db8::1]:999"), vip6, ack, 10)},
			{"forged, of this machine's own, from the back", back, segment(netip.MustParseAddrPort("10.20.0.2:999"), gateway4, ack, 10)},
			{"from everybody's", front, segment(netip.MustParseAddrPort("203.0.113.255:999"), vip4, ack, 10)},
			{"to this machine", back, segment(server4, netip.MustParseAddrPort("10.20.0.2:5555"), syn|ack, 10)},
			{"to this machine, IPv6", back, segment(server6, netip.MustParseAddrPort("[fd20::2]:5555"), syn|ack, 10)},
			{"to this machine, on the other side", back, segment(server4, netip.MustParseAddrPort("203.0.113.1:5555"), ack, 10)},
			{"to loopback", back, segment(server4, netip.MustParseAddrPort("127.0.0.1:5555"), ack, 10)},
			{"to a group", back, segment(server4, netip.MustParseAddrPort("224.0.0.5:5555"), ack, 10)},
			{"to link-local", back, segment(server6, netip.MustParseAddrPort("[fe80::5]:5555"), ack, 10)},
			{"forged client", back, segment(client4, vip4, ack, 10)},
			{"server's other port", back, segment(netip.AddrPortFrom(server4.Addr(), 22), client4, ack, 10)},
			{"last hop", front, changed(segment(client4, vip4, ack, 10), func(b []byte) { b[8] = 1 })},
			{"last hop, IPv6", front, changed(segment(client6, vip6, ack, 10), func(b []byte) { b[7] = 1 })},
			{"fragment", front, changed(segment(client4, vip4, ack, 10), func(b []byte) { b[6] = 0x20 })},
			{"later fragment", front, changed(segment(client4, vip4, ack, 10), func(b []byte) { b[7] = 8 })},
			{"IP option", front, changed(segment(client4, vip4, ack, 10), func(b []byte) { b[0] = 0x46 })},
			{"wrong checksum", front, func() []byte { b := segment(client4, vip4, ack, 10); b[10] ^= 1; return b }()},
			{"longer than it says", front, append(segment(client4, vip4, ack, 10), 0, 0)},
			{"shorter than it says", front, changed(segment(client4, vip4, ack, 10), func(b []byte) { binary.BigEndian.PutUint16(b[2:], 200) })},
			{"UDP", front, changed(segment(client4, vip4, ack, 10), func(b []byte) { b[9] = unix.IPPROTO_UDP })},
			{"extension header", front, changed(segment(client6, vip6, ack, 10), func(b []byte) { b[6] = 60 })},
			{"from loopback", front, segment(netip.MustParseAddrPort("127.0.0.1:5"), vip4, ack, 10)},
			{"from a group", front, segment(netip.MustParseAddrPort("224.0.0.5:5"), vip4, ack, 10)},
			{"from link-local", front, segment(netip.MustParseAddrPort("[fe80::5]:5"), vip6, ack, 10)},
			{"too short", front, segment(client4, vip4, ack, 0)[:30]},
		}
		for i, c := range leaves {
			r.arrive(c.nic, r.frame(c.nic, c.b))
			mark := segment(client4, vip4, ack, 30+i)
			r.arrive(front, r.frame(front, mark))
			r.gets("after "+c.what, mark)
		}
		stranger := r.frame(front, segment(client4, vip4, ack, 10))
		stranger[5] ^= 1
		r.arrive(front, stranger)
		tagged := r.frame(front, segment(client4, vip4, ack, 11))
		r.arrive(front, append(append(bytes.Clone(tagged[:12]), 0x81, 0, 0, 7), tagged[12:]...))
		for _, c := range takes {
			r.arrive(c.nic, r.frame(c.nic, c.b))
			r.gets(c.what, c.b)
		}
		want := map[string]uint64{"front": uint64(len(leaves)) + 6, "back": 4, "out": 0}
		for hook, n := range want {
			if got := r.steering.Packets()[hook]; got != n {
				t.Errorf("%s: %d packets, want %d", hook, got, n)
			}
		}
	})
}

// Addresses of this machine come and go while it runs; a virtual one is none of them, whoever configures it.
func TestOwn(t *testing.T) {
	isolated(t, func(t *testing.T) {
		r := newRig(t, config())
		later, err := netlink.ParseAddr("10.20.0.77/24")
		r.must(err)
		virtual, err := netlink.ParseAddr(gateway4.Addr().String() + "/32")
		r.must(err)
		b := segment(server4, netip.MustParseAddrPort("10.20.0.77:5555"), ack, 50)
		mark := segment(server4, gateway4, ack, 60)
		r.arrive(back, r.frame(back, b))
		r.gets("of nobody's", b)
		r.must(netlink.AddrAdd(r.nics[back], later))
		r.must(netlink.AddrAdd(r.nics[back], virtual))
		r.look("")
		r.arrive(back, r.frame(back, b))
		r.arrive(back, r.frame(back, mark))
		r.gets("to the virtual address, and none to this machine", mark)
		r.must(netlink.AddrDel(r.nics[back], later))
		r.look("")
		r.arrive(back, r.frame(back, b))
		r.gets("of nobody's again", b)
		r.steering.Look(steer.Around{Own: slices.Repeat([]netip.Addr{later4()}, 9000)})
		if why := r.steering.Why(); why != "" {
			t.Errorf("9000 times one address: %q", why)
		}
		many := []netip.Addr{later4()}
		for range 4096 {
			many = append(many, many[len(many)-1].Next())
		}
		r.steering.Look(steer.Around{Own: many})
		if why := r.steering.Why(); !strings.Contains(why, "more than 4096 addresses") {
			t.Errorf("too many addresses: %q", why)
		}
	})
}

func later4() netip.Addr { return netip.MustParseAddr("10.30.0.1") }

// leaves awaits an IP packet with TCP on the other end of a NIC.
func (r *rig) leaves(nic int) (frame []byte) {
	r.t.Helper()
	b := make([]byte, 70000)
	for {
		n, from, err := unix.Recvfrom(r.ends[nic], b, 0)
		r.must(err)
		if from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING || n < 14+20 {
			continue
		}
		if ip := b[14:n]; ip[0] == 0x45 && ip[9] == unix.IPPROTO_TCP || ip[0]>>4 == 6 && ip[6] == unix.IPPROTO_TCP {
			return bytes.Clone(b[:n])
		}
	}
}

func (r *rig) write(h tun.VnetHeader, b []byte) {
	r.t.Helper()
	hdr := make([]byte, tun.VnetHeaderLen)
	h.Encode(hdr)
	r.must(r.dev.WriteV([][]byte{hdr, b}))
}

// What the process writes leaves by the NIC that routing says, to the neighbour that it says, and counts one hop.
// What is nobody's goes by the kernel's way, to the same end.
func TestOut(t *testing.T) {
	isolated(t, func(t *testing.T) {
		r := newRig(t, config())
		far := netip.MustParseAddrPort("198.51.100.7:1234") // behind a router that has an address in the front network
		router := &netlink.Route{Dst: &net.IPNet{IP: net.IPv4(198, 51, 100, 0), Mask: net.CIDRMask(24, 32)}, Gw: client4.Addr().AsSlice()}
		r.must(netlink.RouteAdd(router))
		out := uint64(0)
		for _, c := range []struct {
			what    string
			nic     int
			b       []byte
			steered bool
		}{
			{"to the client", front, segment(vip4, client4, ack, 100), true},
			{"to the client, IPv6", front, segment(vip6, client6, ack, 100), true},
			{"to a client behind a router", front, segment(vip4, far, ack, 100), true},
			{"to the server", back, segment(client4, server4, ack, 100), true},
			{"to the server, IPv6", back, segment(client6, server6, ack, 100), true},
			{"SYN to the server", back, segment(client4, server4, syn, 0), true},
			{"full", front, segment(vip4, client4, ack, mtu-40), true},
			{"last hop but one", front, changed(segment(vip4, client4, ack, 10), func(b []byte) { b[8] = 2 }), true},
			{"of nobody's", back, segment(client4, netip.AddrPortFrom(server4.Addr(), 22), ack, 10), false},
			{"with an IP option", front, changed(append(append(segment(vip4, client4, ack, 0)[:20], 1, 1, 1, 0), segment(vip4, client4, ack, 0)[20:]...),
				func(b []byte) { b[0] = 0x46; b[3] += 4 }), false},
		} {
			r.write(tun.VnetHeader{}, c.b)
			if !c.steered && c.b[0] == 0x46 {
				continue
			}
			f := r.leaves(c.nic)
			if want := append(append(bytes.Clone(otherMAC), r.nics[c.nic].Attrs().HardwareAddr...), f[12:14]...); !bytes.Equal(f[:14], want) {
				t.Errorf("%s: link layer %x, want %x", c.what, f[:14], want)
			}
			if !bytes.Equal(f[14:], fewer(c.b, 1)) {
				t.Errorf("%s:\n%x leaves, want\n%x", c.what, f[14:], fewer(c.b, 1))
			}
			if c.steered {
				out++
			}
			if got := r.steering.Packets()["out"]; got != out {
				t.Errorf("%s: %d packets were steered, want %d", c.what, got, out)
			}
		}
	})
}

// A superpacket that the process writes goes out whole, and is cut by whoever must.
func TestSuperpacket(t *testing.T) {
	isolated(t, func(t *testing.T) {
		r := newRig(t, config())
		b := segment(vip4, client4, ack, 4*1000)
		tcp := header.TCP(b[20:])
		x := header.PseudoHeaderChecksum(header.TCPProtocolNumber, tcpip.AddrFromSlice(b[12:16]), tcpip.AddrFromSlice(b[16:20]), uint16(len(tcp)))
		tcp.SetChecksum(x)
		h := tun.VnetHeader{Flags: tun.FlagNeedsCsum, GSOType: tun.GSOTCPv4, HdrLen: 40, GSOSize: 1000, CsumStart: 20, CsumOffset: header.TCPChecksumOffset}
		r.write(h, b)
		f := r.leaves(front)
		if len(f) != 14+len(b) || f[14+8] != 63 {
			t.Errorf("%d bytes leave with TTL %d", len(f), f[14+8])
		}
		if n := r.steering.Packets()["out"]; n != 1 {
			t.Errorf("%d packets were steered, want 1", n)
		}
		// Its segments are too large for the way: routing has the answer (RFC 1191).
		r.must(netlink.LinkSetMTU(r.nics[front], 1000))
		r.write(h, b)
		r.write(tun.VnetHeader{}, segment(vip4, client4, ack, 1000))
		r.write(tun.VnetHeader{}, segment(vip4, client4, ack, 10))
		if f := r.leaves(front); len(f) != 14+50 {
			t.Errorf("%d bytes leave", len(f))
		}
		if n := r.steering.Packets()["out"]; n != 2 {
			t.Errorf("%d packets were steered, want 2", n)
		}
	})
}

// Look takes the programs away while something must see the packets, and puts them back where somebody has taken
// them away: with the interface, say.
func TestLook(t *testing.T) {
	isolated(t, func(t *testing.T) {
		r := newRig(t, config())
		comes := func(what string) {
			t.Helper()
			b := segment(client4, vip4, ack, 50)
			r.arrive(front, r.frame(front, b))
			r.gets(what, b)
		}
		comes("at first")
		r.look("a filter")
		if why := r.steering.Why(); why != "a filter" {
			t.Errorf("why: %q", why)
		}
		r.arrive(front, r.frame(front, segment(client4, vip4, ack, 60)))
		r.look("")
		comes("again")
		dropper, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "dropper", Type: ebpf.SchedCLS, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}})
		r.must(err)
		later, err := link.AttachTCX(link.TCXOptions{Interface: r.nics[front].Attrs().Index, Program: dropper, Attach: ebpf.AttachTCXIngress})
		r.must(err)
		before := r.steering.Packets()["front"]
		r.look("")
		r.arrive(front, r.frame(front, segment(client4, vip4, ack, 70)))
		mark := segment(server4, client4, ack, 80)
		r.arrive(back, r.frame(back, mark))
		r.gets("not past another's program", mark)
		if n := r.steering.Packets()["front"]; n != before {
			t.Errorf("%d packets were steered past another's program", n-before)
		}
		r.must(errors.Join(later.Close(), dropper.Close()))
		comes("without it")
		r.must(netlink.LinkDel(r.nics[front]))
		r.look("")
		if r.steering.Why() == "" {
			t.Error("without a NIC packets are said to be steered")
		}
		r.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "front"}, PeerName: "front-x"}))
		r.nics[front], r.ends[front] = r.up("front"), r.socket(r.up("front-x").Attrs().Index)
		r.look("")
		comes("by another NIC of the same name")
	})
}

// Who captures on an interface sees what is steered, and its counters count it.
func TestSeen(t *testing.T) {
	isolated(t, func(t *testing.T) {
		r := newRig(t, config())
		index := func(name string) int {
			l, err := netlink.LinkByName(name)
			r.must(err)
			return l.Attrs().Index
		}
		count := func(name string) (rx, tx uint64) {
			l, err := netlink.LinkByName(name)
			r.must(err)
			return l.Attrs().Statistics.RxPackets, l.Attrs().Statistics.TxPackets
		}
		in, out := segment(client4, vip4, ack, 50), segment(client4, server4, ack, 60)
		nic, device, other := r.socket(index("front")), r.socket(index(tunName)), r.socket(index("back"))
		rx0, _ := count("front")
		trx0, ttx0 := count(tunName)
		_, tx0 := count("back")
		r.arrive(front, r.frame(front, in))
		r.gets("segment", in)
		r.write(tun.VnetHeader{}, out)
		r.leaves(back)
		r.captured("in at the NIC", nic, 14, unix.PACKET_HOST, in)
		r.captured("out to the device", device, 0, unix.PACKET_OUTGOING, fewer(in, 1))
		r.captured("in from the device", device, 0, unix.PACKET_HOST, out)
		r.captured("out by the NIC", other, 14, unix.PACKET_OUTGOING, fewer(out, 1))
		rx, _ := count("front")
		trx, ttx := count(tunName)
		_, tx := count("back")
		if rx == rx0 || ttx == ttx0 || trx == trx0 || tx == tx0 {
			t.Errorf("not all interfaces have counted it: front %d, TUN %d and %d, back %d", rx-rx0, ttx-ttx0, trx-trx0, tx-tx0)
		}
	})
}

// captured awaits a packet in a capture.
func (r *rig) captured(what string, fd, l2 int, kind uint8, want []byte) {
	r.t.Helper()
	b := make([]byte, 70000)
	for {
		n, from, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			r.t.Fatalf("%s: %v", what, err)
		}
		if n >= l2 && from.(*unix.SockaddrLinklayer).Pkttype == kind && bytes.Equal(b[l2:n], want) {
			return
		}
	}
}

// The rights that the documents name suffice to begin, and those that are kept afterwards to go on.
func TestRights(t *testing.T) {
	isolated(t, func(t *testing.T) {
		const netAdmin, netRaw, bpf = 1 << unix.CAP_NET_ADMIN, 1 << unix.CAP_NET_RAW, 1 << (unix.CAP_BPF - 32)
		keep := func(low, high uint32) { // of this thread, which ends with the test
			t.Helper()
			hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			data := [2]unix.CapUserData{{Effective: low, Permitted: low}, {Effective: high, Permitted: high}}
			if err := unix.Capset(&hdr, &data[0]); err != nil {
				t.Fatal(err)
			}
		}
		keep(netAdmin|netRaw, bpf)
		c := newFlowRig(t, 4)
		r := c.rig
		keep(netAdmin|netRaw, 0)
		c.open(flowAddrs()["IPv4"], false, [2]uint32{1, 2})
		c.enter()
		c.passes("of a flow", c.next(splice.Client, 10))
		c.leave()
		r.must(c.flows.Wait())
		if err := steer.Ask(); !errors.Is(err, os.ErrPermission) {
			t.Errorf("without CAP_BPF: %v", err)
		}
		r.look("an obstacle")
		r.look("")
		b := segment(client4, vip4, ack, 50)
		r.arrive(front, r.frame(front, b))
		r.gets("segment", b)
		if n := r.steering.Packets()["front"]; n != 1 {
			t.Errorf("%d packets", n)
		}
	})
}
