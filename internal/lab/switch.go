package lab

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// fabric is a learning Ethernet switch.
//
//	host --veth-- [AF_PACKET] -> FromHost conduit -> forward -> ToHost conduit -> [AF_PACKET] --veth-- host
type fabric struct {
	mu    sync.RWMutex
	ports []*switchPort
	table map[[6]byte]*switchPort
}

// maxStations bounds the address table; beyond it unknown stations are flooded to, as a real
// switch does.
const maxStations = 4096

// switchPort is a raw socket on the hub's end of a cable, with a conduit per direction.
type switchPort struct {
	fab      *fabric
	file     *os.File // AF_PACKET socket, nonblocking, in the runtime's poller
	in, out  *conduit
	group    int // partition; guarded by fab.mu
	size     int // largest frame
	failures atomic.Uint64
	done     chan struct{}
}

func newFabric() *fabric { return &fabric{table: make(map[[6]byte]*switchPort)} }

func (f *fabric) addPort(s *space, link netlink.Link, mtu int, faults Faults, seed uint64) (*switchPort, error) {
	file, err := openPacket(s, link)
	if err != nil {
		return nil, err
	}
	// 14 bytes of Ethernet and room for two VLAN tags.
	p := &switchPort{fab: f, file: file, size: mtu + 14 + 8, done: make(chan struct{})}
	p.in = newConduit(seed<<1, faults, func(frame []byte) { f.forward(p, frame) })
	p.out = newConduit(seed<<1|1, faults, p.send)
	f.mu.Lock()
	f.ports = append(f.ports, p)
	f.mu.Unlock()
	go p.receive()
	return p, nil
}

// openPacket opens a raw socket that sees every frame arriving at the link, and none of its own.
func openPacket(s *space, link netlink.Link) (*os.File, error) {
	var file *os.File
	err := s.visit(func() error {
		// Protocol 0: nothing arrives before the socket is bound to its interface.
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("open packet socket: %w", err)
		}
		const buffer = 8 << 20 // bytes; a burst of some thousand frames
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer)
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, buffer)
		_ = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
		err = unix.Bind(fd, &unix.SockaddrLinklayer{
			Protocol: uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8, // network order
			Ifindex:  link.Attrs().Index,
		})
		if err == nil {
			err = unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
				&unix.PacketMreq{Ifindex: int32(link.Attrs().Index), Type: unix.PACKET_MR_PROMISC})
		}
		if err != nil {
			unix.Close(fd)
			return fmt.Errorf("bind packet socket to %q: %w", link.Attrs().Name, err)
		}
		file = os.NewFile(uintptr(fd), "packet:"+link.Attrs().Name)
		return nil
	})
	return file, err
}

func (p *switchPort) conduit(d Direction) *conduit {
	if d == FromHost {
		return p.in
	}
	return p.out
}

// receive moves frames from the wire into the FromHost conduit.
func (p *switchPort) receive() {
	defer close(p.done)
	buf := make([]byte, p.size)
	pause := time.Duration(0)
	for {
		n, err := p.file.Read(buf)
		switch {
		case err == nil && n >= 14:
			pause = 0
			p.in.put(buf[:n])
		case errors.Is(err, os.ErrClosed):
			return
		default:
			// ENETDOWN comes once each time the link goes down. Anything lasting must not spin.
			p.failures.Add(1)
			pause = min(pause+time.Millisecond, 50*time.Millisecond)
			time.Sleep(pause)
		}
	}
}

// send puts a frame on the wire. A link that is down or a full queue loses it, as on a real one.
func (p *switchPort) send(frame []byte) {
	if _, err := p.file.Write(frame); err != nil {
		p.failures.Add(1)
	}
}

// forward learns the source and picks the ports a frame leaves by.
func (f *fabric) forward(from *switchPort, frame []byte) {
	var dst, src [6]byte
	copy(dst[:], frame[0:6])
	copy(src[:], frame[6:12])
	f.mu.RLock()
	if known := f.table[src]; known != from && src[0]&1 == 0 {
		f.mu.RUnlock()
		f.mu.Lock()
		if _, ok := f.table[src]; ok || len(f.table) < maxStations {
			f.table[src] = from
		}
		f.mu.Unlock()
		f.mu.RLock()
	}
	if to := f.table[dst]; to != nil && dst[0]&1 == 0 {
		same := to.group == from.group && to != from
		f.mu.RUnlock()
		if same {
			to.out.put(frame)
		}
		return
	}
	ports, group := f.ports, from.group // appended to only: the slice is a snapshot
	flood := make([]*switchPort, 0, 8)
	for _, to := range ports {
		if to != from && to.group == group {
			flood = append(flood, to)
		}
	}
	f.mu.RUnlock()
	for _, to := range flood {
		to.out.put(frame)
	}
}

// forget drops what was learnt behind a port, as a switch does when its link goes down.
func (f *fabric) forget(p *switchPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for mac, q := range f.table {
		if q == p {
			delete(f.table, mac)
		}
	}
}

// regroup moves a port to a partition.
func (f *fabric) regroup(p *switchPort, group int) {
	f.mu.Lock()
	changed := p.group != group
	p.group = group
	f.mu.Unlock()
	if changed {
		f.forget(p)
	}
}

// close stops readers first, then conduits: a conduit may be handing a frame to another's.
func (f *fabric) close() {
	f.mu.RLock()
	ports := f.ports
	f.mu.RUnlock()
	for _, p := range ports {
		p.file.Close()
	}
	for _, p := range ports {
		<-p.done
	}
	for _, p := range ports {
		p.in.close()
	}
	for _, p := range ports {
		p.out.close()
	}
}
