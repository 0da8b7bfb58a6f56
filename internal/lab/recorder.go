package lab

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Recorder keeps the heads of the newest frames that hosts have sent into a network, in memory, so
// that when something goes wrong what led to it is still there.
//
// A frame is noted where it enters the network, before the network decides what becomes of it.
type Recorder struct {
	file  *os.File
	ports map[int]string // interface index to the host's name
	done  chan struct{}

	mu     sync.Mutex
	frames []recorded // a ring
	next   int        // where the oldest frame is, once the ring is full
	err    error      // why the reader has ended
}

type recorded struct {
	at   time.Time
	port int
	size uint16 // of the whole frame
	n    uint16
	head [captured]byte
}

// Record begins to keep the newest frames of the network, as many as given. It ends with Close.
// Hosts that are attached later are not recorded.
func (n *Network) Record(frames int) (*Recorder, error) {
	if frames < 1 || frames > 1<<20 {
		return nil, fmt.Errorf("network %q: a record of %d frames is not within 1 to %d", n.name, frames, 1<<20)
	}
	r := &Recorder{ports: make(map[int]string), done: make(chan struct{}), frames: make([]recorded, 0, frames)}
	for _, p := range n.attached() {
		r.ports[p.link.Attrs().Index] = p.host.name
	}
	var file *os.File
	err := n.space.visit(func() error {
		fd, err := recordingSocket()
		if err == nil {
			file = os.NewFile(uintptr(fd), "record:"+n.name)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("network %q: record: %w", n.name, err)
	}
	r.file = file
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("network %q: record: %w", n.name, err)
	}
	go r.read(raw.Read)
	return r, nil
}

// recordingSocket sees what arrives at any interface of the namespace.
func recordingSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, fmt.Errorf("open packet socket: %w", err)
	}
	const buffer = 32 << 20 // bytes; the reader may be without a CPU for long
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
	)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8})
	}
	if err != nil {
		unix.Close(fd)
		return 0, fmt.Errorf("set packet socket up: %w", err)
	}
	return fd, nil
}

func (r *Recorder) read(wait func(func(uintptr) bool) error) {
	defer close(r.done)
	var f recorded
	var oob [64]byte
	for {
		var size, oobn int
		var from unix.Sockaddr
		var failed error
		err := wait(func(fd uintptr) bool {
			size, oobn, _, from, failed = unix.Recvmsg(int(fd), f.head[:], oob[:], unix.MSG_TRUNC)
			return failed != unix.EAGAIN
		})
		switch {
		case err != nil: // closed
			return
		case errors.Is(failed, unix.ENETDOWN), errors.Is(failed, unix.EINTR):
			continue
		case failed != nil:
			r.mu.Lock()
			r.err = failed
			r.mu.Unlock()
			return
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if !ok || r.ports[ll.Ifindex] == "" {
			continue // what a bridge hands to its own host
		}
		if f.at, ok = stamp(oob[:oobn]); !ok {
			continue
		}
		f.port, f.size, f.n = ll.Ifindex, uint16(min(size, 0xffff)), uint16(min(size, captured))
		r.keep(f)
	}
}

func (r *Recorder) keep(f recorded) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.frames) < cap(r.frames) {
		r.frames = append(r.frames, f)
		return
	}
	r.frames[r.next] = f
	r.next = (r.next + 1) % len(r.frames)
}

// Close ends the recording; what was kept can still be written.
func (r *Recorder) Close() {
	r.file.Close()
	<-r.done
}

// WritePCAP writes what is kept as a pcapng file, in which each host that sends is an interface.
func (r *Recorder) WritePCAP(w io.Writer) error {
	r.mu.Lock()
	frames := append(append([]recorded(nil), r.frames[r.next:]...), r.frames[:r.next]...)
	err := r.err
	r.mu.Unlock()
	out := bufio.NewWriter(w)
	section := binary.LittleEndian.AppendUint32(nil, 0x1a2b3c4d) // byte order
	section = binary.LittleEndian.AppendUint32(section, 1)       // version 1.0
	section = binary.LittleEndian.AppendUint64(section, ^uint64(0))
	block(out, 0x0a0d0d0a, section)
	id := make(map[int]uint32)
	for index, host := range r.ports {
		id[index] = uint32(len(id))
		describe := []byte{1, 0, 0, 0, captured, 0, 0, 0} // Ethernet, snapped length
		describe = option(describe, 2, []byte(host))      // if_name
		describe = option(describe, 9, []byte{9})         // if_tsresol: nanoseconds
		block(out, 1, option(describe, 0, nil))
	}
	for _, f := range frames {
		at := uint64(f.at.UnixNano())
		b := binary.LittleEndian.AppendUint32(nil, id[f.port])
		b = binary.LittleEndian.AppendUint32(b, uint32(at>>32))
		b = binary.LittleEndian.AppendUint32(b, uint32(at))
		b = binary.LittleEndian.AppendUint32(b, uint32(f.n))
		b = binary.LittleEndian.AppendUint32(b, uint32(f.size))
		block(out, 6, append(b, f.head[:f.n]...))
	}
	return errors.Join(err, out.Flush())
}

// block writes one block of a pcapng file. An error stays in the writer until it is flushed.
func block(w *bufio.Writer, kind uint32, body []byte) {
	for len(body)%4 != 0 {
		body = append(body, 0)
	}
	size := uint32(len(body) + 12)
	b := binary.LittleEndian.AppendUint32(nil, kind)
	b = binary.LittleEndian.AppendUint32(b, size)
	b = append(b, body...)
	_, _ = w.Write(binary.LittleEndian.AppendUint32(b, size))
}

func option(b []byte, code uint16, value []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, code)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// Neighbour is the link-layer address that the host has for an IP address, and whether it uses it.
func (h *Host) Neighbour(addr netip.Addr) (mac string, usable bool, err error) {
	family := netlink.FAMILY_V4
	if addr.Is6() {
		family = netlink.FAMILY_V6
	}
	list, err := h.space.nl.NeighList(0, family)
	if err != nil {
		return "", false, fmt.Errorf("host %q: neighbours: %w", h.name, err)
	}
	for _, n := range list {
		if a, ok := netip.AddrFromSlice(n.IP); ok && a.Unmap() == addr {
			return n.HardwareAddr.String(), n.State&(netlink.NUD_REACHABLE|netlink.NUD_STALE|netlink.NUD_DELAY|netlink.NUD_PROBE|netlink.NUD_PERMANENT) != 0, nil
		}
	}
	return "", false, nil
}

// Neighbours are the host's ARP and neighbour discovery entries, for a human to read.
func (h *Host) Neighbours() (string, error) {
	var text string
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := h.space.nl.NeighList(0, family)
		if err != nil {
			return text, fmt.Errorf("host %q: neighbours: %w", h.name, err)
		}
		for _, n := range list {
			if n.State&netlink.NUD_NOARP != 0 {
				continue
			}
			text += fmt.Sprintf("%d %v %v %s\n", n.LinkIndex, n.IP, n.HardwareAddr, nud(n.State))
		}
	}
	return text, nil
}

// nud names a neighbour's state as ip-neighbour does.
func nud(state int) string {
	names := map[int]string{
		netlink.NUD_NONE: "NONE", netlink.NUD_INCOMPLETE: "INCOMPLETE", netlink.NUD_REACHABLE: "REACHABLE", netlink.NUD_STALE: "STALE",
		netlink.NUD_DELAY: "DELAY", netlink.NUD_PROBE: "PROBE", netlink.NUD_FAILED: "FAILED", netlink.NUD_PERMANENT: "PERMANENT",
	}
	if s := names[state]; s != "" {
		return s
	}
	return fmt.Sprintf("%#x", state)
}
