package tun

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// packetSocket is one AF_PACKET socket bound to an interface and an EtherType.
// It is opened by the packet library; reading, sending and binding go to the
// descriptor itself: reading because of next's step under a lock, the others
// because the library keeps for ever to the interface index it was opened with,
// which an interface loses when it is deleted and made again.
type packetSocket struct {
	conn      *packet.Conn
	raw       syscall.RawConn
	etherType uint16 // host byte order
}

// forUs lets what the kernel would look at go on to what follows. Other frames are those to other hosts and those of
// VLANs that nobody has configured, whose tag the kernel takes off before a socket of the NIC sees them
// (findings/packet-socket-vlan.sh): who has our address there is no stranger of ours.
var forUs = []bpf.Instruction{
	bpf.LoadExtension{Num: bpf.ExtType},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.PACKET_OTHERHOST, SkipTrue: 1},
	bpf.RetConstant{Val: 0},
}

// openPacketSocket opens one for frames of a type that are for us, and that filter takes.
func openPacketSocket(nic NIC, etherType uint16, filter []bpf.Instruction) (*packetSocket, error) {
	prog, err := bpf.Assemble(append(forUs[:len(forUs):len(forUs)], filter...))
	if err != nil {
		return nil, fmt.Errorf("assemble packet filter: %w", err)
	}
	ifi := &net.Interface{Index: nic.Index, Name: nic.Name, HardwareAddr: nic.MAC, MTU: nic.MTU}
	conn, err := packet.Listen(ifi, packet.Raw, int(etherType), &packet.Config{Filter: prog})
	if err != nil {
		hint := ""
		if errors.Is(err, unix.EPERM) {
			hint = " (needs CAP_NET_RAW)"
		}
		return nil, fmt.Errorf("open packet socket: %w%s", err, hint)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("access packet socket: %w", err)
	}
	return &packetSocket{conn: conn, raw: raw, etherType: etherType}, nil
}

// send puts one whole frame on the wire, or fails at once: announcing must not
// wait for a queue.
func (p *packetSocket) send(index int, frame []byte) error {
	if index == 0 {
		return unix.ENODEV
	}
	var err error
	to := &unix.SockaddrLinklayer{Ifindex: index, Protocol: hton16(p.etherType)}
	if cerr := p.raw.Control(func(fd uintptr) {
		err = unix.Sendto(int(fd), frame, unix.MSG_DONTWAIT, to)
	}); cerr != nil {
		return cerr
	}
	return err
}

// next waits for one frame. Taking it out of the queue and handling it are one
// step under mu: who holds mu knows that no frame is between the two.
func (p *packetSocket) next(mu sync.Locker, buf []byte, handle func([]byte)) error {
	var err error
	rerr := p.raw.Read(func(fd uintptr) bool {
		mu.Lock()
		defer mu.Unlock()
		var n int
		if n, err = unix.Read(int(fd), buf); err == nil {
			handle(buf[:n])
		}
		return !errors.Is(err, unix.EAGAIN)
	})
	if rerr != nil {
		return rerr
	}
	return err
}

// receive hands frames to handle, as next does, until ctx ends or the socket is closed. Errors such as ENETDOWN are the
// interface's, not the socket's: it works again when the link is back.
func (p *packetSocket) receive(ctx context.Context, mu sync.Locker, buf []byte, handle func([]byte)) {
	for {
		err := p.next(mu, buf, handle)
		if err == nil {
			continue
		}
		if ctx.Err() != nil || errors.Is(err, os.ErrClosed) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(20 * time.Millisecond): // so that a lasting error does not spin
		}
	}
}

// drainMax bounds drain, frames: about what a receive queue of the default size
// holds, so that a flood cannot keep it busy.
const drainMax = 1024

// drain handles what is queued and does not wait. The caller holds next's mu.
func (p *packetSocket) drain(buf []byte, handle func([]byte)) {
	_ = p.raw.Control(func(fd uintptr) { // closed: nothing is queued
		for range drainMax {
			n, err := unix.Read(int(fd), buf)
			if err != nil {
				return // EAGAIN: empty; any other comes again to next
			}
			handle(buf[:n])
		}
	})
}

// rebind moves the socket to another interface index.
func (p *packetSocket) rebind(index int) error {
	var err error
	to := &unix.SockaddrLinklayer{Ifindex: index, Protocol: hton16(p.etherType)}
	if cerr := p.raw.Control(func(fd uintptr) { err = unix.Bind(int(fd), to) }); cerr != nil {
		return cerr
	}
	return err
}

func hton16(v uint16) uint16 {
	// AF_PACKET wants the EtherType in network order inside a host-order field.
	b := [2]byte{byte(v >> 8), byte(v)}
	return binary.NativeEndian.Uint16(b[:])
}

// packetSockets is what an announcer sends and listens on. arp and ndp are nil
// where there is no address of that family.
type packetSockets struct {
	arp, ndp *packetSocket
	groups   *os.File // an unbound IPv6 socket that holds the multicast memberships
	groupSet []netip.Addr
}

func openPacketSockets(nic NIC, addr4, addr6 []netip.Addr) (*packetSockets, error) {
	s := &packetSockets{}
	var err error
	if len(addr4) > 0 {
		if s.arp, err = openPacketSocket(nic, etherTypeARP, arpFilter); err != nil {
			return nil, fmt.Errorf("ARP: %w", err)
		}
	}
	if len(addr6) == 0 {
		return s, nil
	}
	s.ndp, err = openPacketSocket(nic, etherTypeV6, ndFilter)
	if err == nil {
		s.groups, err = openGroupSocket()
	}
	if err == nil {
		s.groupSet = solicitedNodes(addr6)
		err = s.join(nic.Index)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("neighbour discovery: %w", err), s.close())
	}
	return s, nil
}

// openGroupSocket: never bound, so that no datagram can be queued on it.
func openGroupSocket() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open IPv6 socket: %w", err)
	}
	return os.NewFile(uintptr(fd), "multicast groups"), nil
}

func solicitedNodes(addrs []netip.Addr) []netip.Addr {
	seen := make(map[netip.Addr]bool)
	var out []netip.Addr
	for _, a := range addrs {
		if g := solicitedNode(a); !seen[g] {
			seen[g] = true
			out = append(out, g)
		}
	}
	return out
}

// arpFilter lets all pass; ndFilter neighbour solicitations and advertisements, and keeps the
// forwarded IPv6 traffic out of user space.
var (
	arpFilter = []bpf.Instruction{bpf.RetConstant{Val: 2048}}

	ndFilter = []bpf.Instruction{
		bpf.LoadAbsolute{Off: ethHeaderLen + 6, Size: 1}, // next header
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protoICMPv6, SkipTrue: 4},
		bpf.LoadAbsolute{Off: ethHeaderLen + ipv6HeaderLen, Size: 1}, // ICMPv6 type
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: ndSolicit, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: ndAdvertise, SkipTrue: 1},
		bpf.RetConstant{Val: 2048},
		bpf.RetConstant{Val: 0},
	}
)

// join subscribes to the solicited-node groups through the kernel's IPv6, which
// sends the MLD reports that snooping switches wait for, and sets the NIC's
// multicast filter.
func (s *packetSockets) join(index int) error {
	if s.groups == nil {
		return nil
	}
	raw, err := s.groups.SyscallConn()
	if err != nil {
		return fmt.Errorf("access group socket: %w", err)
	}
	var errs []error
	if err := raw.Control(func(fd uintptr) {
		for _, g := range s.groupSet {
			m := &unix.IPv6Mreq{Multiaddr: g.As16(), Interface: uint32(index)}
			err := unix.SetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, m)
			if err != nil && !errors.Is(err, unix.EADDRINUSE) { // joined already
				errs = append(errs, fmt.Errorf("join group %s: %w", g, err))
			}
		}
	}); err != nil {
		return fmt.Errorf("access group socket: %w", err)
	}
	return errors.Join(errs...)
}

// rebind follows the interface to a new index. Memberships of the old index
// went with the old interface.
func (s *packetSockets) rebind(index int) error {
	var errs []error
	for _, p := range []*packetSocket{s.arp, s.ndp} {
		if p == nil {
			continue
		}
		if err := p.rebind(index); err != nil {
			errs = append(errs, fmt.Errorf("bind packet socket to interface %d: %w", index, err))
		}
	}
	return errors.Join(append(errs, s.join(index))...)
}

func (s *packetSockets) close() error {
	var errs []error
	if s.arp != nil {
		errs = append(errs, s.arp.conn.Close())
	}
	if s.ndp != nil {
		errs = append(errs, s.ndp.conn.Close())
	}
	if s.groups != nil {
		errs = append(errs, s.groups.Close())
	}
	return errors.Join(errs...)
}
