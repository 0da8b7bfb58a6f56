package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Capture looks at what a host sends by one of its interfaces.
type Capture struct {
	file *os.File // AF_PACKET socket, nonblocking, in the runtime's poller
	done chan struct{}
}

// captured is how much of a frame is kept, bytes: all headers.
const captured = 128

// Capture begins to hand the head of each frame that leaves by the interface to seen, with the
// kernel's time of its leaving: two captures of one machine can be compared, however late either
// is read. seen is called by one goroutine per capture and must not keep the frame.
func (h *Host) Capture(ifname string, seen func(at time.Time, frame []byte)) (*Capture, error) {
	link, err := h.space.nl.LinkByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("host %q: capture on %q: %w", h.name, ifname, err)
	}
	c := &Capture{done: make(chan struct{})}
	if err := h.Do(func() error { return c.open(link.Attrs().Index) }); err != nil {
		return nil, fmt.Errorf("host %q: capture on %q: %w", h.name, ifname, err)
	}
	raw, err := c.file.SyscallConn()
	if err != nil {
		c.file.Close()
		return nil, fmt.Errorf("host %q: capture on %q: %w", h.name, ifname, err)
	}
	go func() {
		defer close(c.done)
		var frame [captured]byte
		var oob [64]byte
		for {
			var n, oobn int
			var failed error
			err := raw.Read(func(fd uintptr) bool {
				n, oobn, _, _, failed = unix.Recvmsg(int(fd), frame[:], oob[:], 0)
				return failed != unix.EAGAIN
			})
			switch {
			case err != nil: // closed
				return
			case errors.Is(failed, unix.ENETDOWN), errors.Is(failed, unix.EINTR):
			case failed != nil:
				return // Close sees that not everything was read
			default:
				if at, ok := stamp(oob[:oobn]); ok && n >= 14 {
					seen(at, frame[:n])
				}
			}
		}
	}()
	return c, nil
}

// open is called in the host's namespace.
func (c *Capture) open(index int) error {
	// Protocol 0: nothing arrives before the socket is bound to its interface.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open packet socket: %w", err)
	}
	fail := func(what string, err error) error {
		unix.Close(fd)
		return fmt.Errorf("%s: %w", what, err)
	}
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipFalse: 1},
		bpf.RetConstant{Val: captured},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return fail("assemble filter", err)
	}
	filter := make([]unix.SockFilter, len(program))
	for i, ins := range program {
		filter[i] = unix.SockFilter{Code: ins.Op, Jt: ins.Jt, Jf: ins.Jf, K: ins.K}
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}); err != nil {
		return fail("attach filter", err)
	}
	const buffer = 32 << 20 // bytes; the reader may be without a CPU for long
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer); err != nil {
		return fail("enlarge buffer", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		return fail("ask for timestamps", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{
		Protocol: uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8, // network order
		Ifindex:  index,
	}); err != nil {
		return fail("bind", err)
	}
	c.file = os.NewFile(uintptr(fd), "capture")
	return nil
}

// stamp finds the kernel's timestamp.
func stamp(oob []byte) (time.Time, bool) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Time{}, false
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})) {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:]))), true
		}
	}
	return time.Time{}, false
}

// Close ends the capture. An error says that not every frame was seen. seen is not called any more
// then.
func (c *Capture) Close() error {
	select {
	case <-c.done:
		c.file.Close()
		return errors.New("capture: the reader has failed")
	default:
	}
	var stats *unix.TpacketStats
	raw, err := c.file.SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) {
			stats, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
		})
		err = errors.Join(err, cerr)
	}
	c.file.Close()
	<-c.done
	switch {
	case err != nil:
		return fmt.Errorf("capture: count losses: %w", err)
	case stats.Drops > 0:
		return fmt.Errorf("capture: %d of %d frames were not seen", stats.Drops, stats.Packets)
	}
	return nil
}
