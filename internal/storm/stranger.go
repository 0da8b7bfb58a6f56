package storm

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lockstep/internal/lab"
)

// Addresses of the stranger; forged sources are beyond them, where nobody is.
const (
	stranger4 = "203.0.113.200"
	stranger6 = "2001:db8::200"
	floodMost = 600 // SYNs of one flood
)

func drawFlood(rng *rand.Rand, o *options) *fault {
	n, seed := 100+rng.IntN(floodMost-100), rng.Uint64()
	f := &fault{What: "flood", Length: length(rng)}
	done := make(chan error, 1)
	f.inject = func(ctx context.Context, s *storm) error {
		go func() { done <- flood(ctx, s.stranger, rand.New(rand.NewPCG(seed, 2)), n, f.Length, o) }()
		return nil
	}
	f.heal = func(context.Context, *storm) error { return <-done }
	return f
}

// flood sends SYNs to the virtual addresses, spread over the time. The kernel finds the way.
func flood(ctx context.Context, h *lab.Host, rng *rand.Rand, n int, over time.Duration, o *options) error {
	var s4, s6 int
	err := h.Do(func() (err error) {
		if s4, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
			return err
		}
		s6, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	})
	if err != nil {
		return fmt.Errorf("flood: open raw sockets: %w", err)
	}
	defer unix.Close(s4)
	defer unix.Close(s6)
	tick := time.NewTicker(max(over/time.Duration(n), 100*time.Microsecond))
	defer tick.Stop()
	for range n {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		port := pick(rng, clientPort, gatewayPort)
		// A full queue towards somebody who does not answer is what a flood meets: no error of ours.
		if o.only4 || !o.only6 && rng.IntN(2) == 0 {
			src := netip.AddrFrom4([4]byte{203, 0, 113, byte(210 + rng.IntN(40))})
			vip := netip.MustParseAddr(lab.VIP4)
			_ = unix.Sendto(s4, syn(rng, src, vip, port), 0, &unix.SockaddrInet4{Addr: vip.As4()})
		} else {
			src := netip.MustParseAddr(fmt.Sprintf("2001:db8::3:%x", 1+rng.IntN(0xfff)))
			vip := netip.MustParseAddr(lab.VIP6)
			_ = unix.Sendto(s6, syn(rng, src, vip, port), 0, &unix.SockaddrInet6{Addr: vip.As16()})
		}
	}
	return nil
}

// syn is an IP packet with a SYN.
func syn(rng *rand.Rand, src, dst netip.Addr, port int) []byte {
	from, to := tcpip.AddrFromSlice(src.AsSlice()), tcpip.AddrFromSlice(dst.AsSlice())
	var b []byte
	var tcp header.TCP
	if src.Is4() {
		b = make([]byte, header.IPv4MinimumSize+header.TCPMinimumSize)
		header.IPv4(b).Encode(&header.IPv4Fields{TotalLength: uint16(len(b)), TTL: 64, Protocol: uint8(header.TCPProtocolNumber), SrcAddr: from, DstAddr: to})
		header.IPv4(b).SetChecksum(^header.IPv4(b).CalculateChecksum())
		tcp = header.TCP(b[header.IPv4MinimumSize:])
	} else {
		b = make([]byte, header.IPv6MinimumSize+header.TCPMinimumSize)
		header.IPv6(b).Encode(&header.IPv6Fields{PayloadLength: header.TCPMinimumSize, TransportProtocol: header.TCPProtocolNumber, HopLimit: 64, SrcAddr: from, DstAddr: to})
		tcp = header.TCP(b[header.IPv6MinimumSize:])
	}
	tcp.Encode(&header.TCPFields{SrcPort: uint16(1024 + rng.IntN(60000)), DstPort: uint16(port), SeqNum: rng.Uint32(),
		DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn, WindowSize: 65535})
	tcp.SetChecksum(^tcp.CalculateChecksum(header.PseudoHeaderChecksum(header.TCPProtocolNumber, from, to, header.TCPMinimumSize)))
	return b
}

func drawClaim(rng *rand.Rand, o *options) *fault {
	v4, n := o.only4 || !o.only6 && rng.IntN(2) == 0, 1+rng.IntN(3)
	f := &fault{What: "garp by a stranger for the IPv6 address", Length: length(rng)}
	if v4 {
		f.What = "garp by a stranger for the IPv4 address"
	}
	done := make(chan error, 1)
	f.inject = func(ctx context.Context, s *storm) error {
		go func() { done <- claim(ctx, s.stranger, v4, n, f.Length) }()
		return nil
	}
	f.heal = func(context.Context, *storm) error { return <-done }
	return f
}

// claim says n times that a virtual address is the stranger's.
func claim(ctx context.Context, h *lab.Host, v4 bool, n int, over time.Duration) error {
	link, err := h.Netlink().LinkByName(lab.FrontIf)
	if err != nil {
		return fmt.Errorf("claim: find interface: %w", err)
	}
	mac := [6]byte(link.Attrs().HardwareAddr)
	frame := advertisement(mac)
	if v4 {
		frame = gratuitousARP(mac)
	}
	var fd int
	err = h.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return fmt.Errorf("claim: open packet socket: %w", err)
	}
	defer unix.Close(fd)
	for range n {
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index}); err != nil {
			return fmt.Errorf("claim: send: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(over / time.Duration(n)):
		}
	}
	return nil
}

// gratuitousARP claims the IPv4 virtual address (RFC 5227, 3).
func gratuitousARP(mac [6]byte) []byte {
	vip := netip.MustParseAddr(lab.VIP4).AsSlice()
	b := append([]byte{255, 255, 255, 255, 255, 255}, mac[:]...)
	b = append(b, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1)
	b = append(append(b, mac[:]...), vip...)
	return append(append(b, 0, 0, 0, 0, 0, 0), vip...)
}

// advertisement claims the IPv6 virtual address: unsolicited, with override (RFC 4861, 7.2.6).
func advertisement(mac [6]byte) []byte {
	vip := netip.MustParseAddr(lab.VIP6).As16()
	all := netip.MustParseAddr("ff02::1").As16()
	body := binary.BigEndian.AppendUint32([]byte{136, 0, 0, 0}, 1<<29)
	body = append(append(body, vip[:]...), 2, 1)
	body = append(body, mac[:]...)
	sum := header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, tcpip.AddrFrom16(vip), tcpip.AddrFrom16(all), uint16(len(body)))
	binary.BigEndian.PutUint16(body[2:], ^checksum.Checksum(body, sum))
	ip := make([]byte, header.IPv6MinimumSize)
	header.IPv6(ip).Encode(&header.IPv6Fields{PayloadLength: uint16(len(body)), TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: 255,
		SrcAddr: tcpip.AddrFrom16(vip), DstAddr: tcpip.AddrFrom16(all)})
	b := append([]byte{0x33, 0x33, 0, 0, 0, 1}, mac[:]...)
	b = append(b, 0x86, 0xdd)
	return append(append(b, ip...), body...)
}
