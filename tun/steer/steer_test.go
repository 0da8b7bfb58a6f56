package steer_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lockstep/splice"
	"lockstep/tun"
	"lockstep/tun/steer"
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
