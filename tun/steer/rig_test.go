package steer_test

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

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
