package tun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/internal/confine"
)

// What has been routed to the TUN device when the process dies lies in the device's queue and would
// go with it: of connections on which one segment is under way at a time nearly all, since it takes
// milliseconds to end a process (its memory first, then its descriptors). So a small process beside
// it keeps the device for a moment longer than the appliance lives and hands on what comes out of it
// to the peer. It does the same when the peer says that it has taken over: then the appliance hangs, and is
// mute should it go on. It is given a pipe, a socket and the device's queues, which are the appliance's own, so that none comes
// to be read by nobody; and does nothing else.

const (
	// keeperName is what the second process is called, and how it knows itself.
	keeperName = "lockstep-keeper"
	// keeperLife is how long it goes on after the appliance has died: until the neighbours know the
	// other one. Then the device ends, and the kernel's own route into the tunnel is next.
	keeperLife = 500 * time.Millisecond
	// keeperLate bounds by how much later that is on a machine without a CPU for it; see keptFor.
	keeperLate = 2 * time.Second
	// successorType is the EtherType of what a successor says (IEEE 802, local experimental), and the text.
	successorType = 0x88b5
	successorSays = "lockstep: taken over"
	// keeperQuit tells it to end at once, and is no interface's index.
	keeperQuit = 0
)

// ErrNoTunnel: there is no way to the peer.
var ErrNoTunnel = errors.New("no tunnel to the peer")

// descriptors of the second process.
const (
	keeperControl = 3 + iota // the read end of a pipe: interface indexes of the tunnel, or keeperQuit
	keeperTunnel
	keeperTUN // the first queue; how many there are is its argument
)

func init() {
	if len(os.Args) > 1 && os.Args[0] == keeperName {
		n, _ := strconv.Atoi(os.Args[1])
		n = max(1, n)
		keep(n)
		for i := range n {
			_ = unix.Close(keeperTUN + i) // whatever the end of the process takes: a successor waits for the device
		}
		os.Exit(0)
	}
}

// Keeper is the process beside.
type Keeper struct {
	dev     *nativeDevice
	sender  *tunnelSender
	proc    *os.Process // of watch
	closing atomic.Bool
	quit    chan struct{} // closed by Close
	ended   chan struct{}

	mu      sync.Mutex // guards what follows
	control *os.File
	told    []byte // what it was told last, for one that takes its place
}

// keeperPause is how long one that has ended is not started again: it may be unable to live.
const keeperPause = time.Second

// StartKeeper starts it for all queues of a device, of which dev is what Open gave, or the first that OpenQueues did. gone is told should it end before Close,
// and then by nil that there is one again.
func StartKeeper(dev Device, gone func(error)) (*Keeper, error) {
	d, ok := dev.(*nativeDevice)
	if !ok {
		return nil, errors.New("keep the TUN device: it is none of the kernel's")
	}
	s, err := newTunnelSender()
	if err != nil {
		return nil, fmt.Errorf("keep the TUN device: %w", err)
	}
	k := &Keeper{dev: d, sender: s, quit: make(chan struct{}), ended: make(chan struct{})}
	if err := k.start(); err != nil {
		_ = s.close()
		return nil, fmt.Errorf("keep the TUN device: start %s: %w", keeperName, err)
	}
	go k.watch(gone)
	return k, nil
}

// watch puts another one in the place of one that ends, until Close.
func (k *Keeper) watch(gone func(error)) {
	defer close(k.ended)
	for {
		state, err := k.proc.Wait()
		if k.closing.Load() {
			return
		}
		gone(errors.Join(err, fmt.Errorf("%s has ended: %v", keeperName, state)))
		for again := false; !again; {
			select {
			case <-k.quit:
				return
			case <-time.After(keeperPause):
				if err := k.restart(); err != nil {
					gone(err)
				} else {
					again = true
				}
			}
		}
		gone(nil)
	}
}

// restart starts another one, which is told what the former one was.
func (k *Keeper) restart() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closing.Load() {
		return os.ErrClosed
	}
	old := k.control
	if err := k.start(); err != nil {
		return err
	}
	_ = old.Close()
	if k.told != nil {
		_, _ = k.control.Write(k.told) // should it have ended, too: watch sees it
	}
	return nil
}

func (k *Keeper) start() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		w.Close()
		return err
	}
	defer null.Close()
	nul, ctl, out := null.Fd(), r.Fd(), uintptr(k.sender.fd)
	var pid int
	cerr := descriptors(append([]*nativeDevice{k.dev}, k.dev.queues...), nil, func(queues []uintptr) {
		pid, err = syscall.ForkExec("/proc/self/exe", []string{keeperName, strconv.Itoa(len(queues))}, &syscall.ProcAttr{
			Env: []string{"GOMAXPROCS=1"}, Files: append([]uintptr{nul, nul, nul, ctl, out}, queues...),
			Sys: &syscall.SysProcAttr{Setpgid: true}, // no signal of a terminal's is for it
		})
	})
	if err = errors.Join(cerr, err); err == nil {
		k.proc, err = os.FindProcess(pid)
	}
	if err != nil {
		w.Close()
		return err
	}
	k.control = w
	return nil
}

// descriptors calls f with the queues' descriptors as they are: os.File.Fd would make them blocking ones, in this process as well.
func descriptors(queues []*nativeDevice, fds []uintptr, f func([]uintptr)) (err error) {
	if len(queues) == 0 {
		f(fds)
		return nil
	}
	cerr := queues[0].raw.Control(func(fd uintptr) { err = descriptors(queues[1:], append(fds, fd), f) })
	return errors.Join(cerr, err)
}

// tunnel tells which interface the tunnel is now.
func (k *Keeper) tunnel(index int, src, dst []byte) error {
	k.sender.to(index, src, dst)
	if err := unix.Bind(k.sender.fd, &unix.SockaddrLinklayer{Ifindex: index, Protocol: hton16(successorType)}); err != nil {
		return fmt.Errorf("listen for the successor: %w", err)
	}
	// The end of the interface that it was bound to is an error that the next call would be told of.
	_, _ = unix.GetsockoptInt(k.sender.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	return k.tell(uint32(index), src, dst)
}

func (k *Keeper) tell(index uint32, src, dst []byte) error {
	b := binary.BigEndian.AppendUint32(nil, index)
	b = append(append(b, src...), dst...)
	b = append(b, make([]byte, keeperMessage-len(b))...)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.told = b
	_, err := k.control.Write(b)
	return err
}

// keeperMessage is an index and the two ends' link addresses.
const keeperMessage = 4 + 6 + 6

// HandOn sends a packet with its virtio-net header to the peer.
func (k *Keeper) HandOn(bufs [][]byte) error { return k.sender.send(bufs) }

// Succeed tells the peer's keeper that we have taken over.
func (k *Keeper) Succeed() error {
	var hdr [VnetHeaderLen]byte
	return k.sender.frame(hdr[:], successorType, [][]byte{[]byte(successorSays)})
}

// Close ends the second process.
func (k *Keeper) Close() error {
	if !k.closing.Swap(true) {
		close(k.quit)
	}
	_ = k.tell(keeperQuit, nil, nil) // fails if it is gone already
	k.mu.Lock()
	err := k.control.Close()
	k.mu.Unlock()
	<-k.ended
	return errors.Join(err, k.sender.close())
}

// keep is the second process, for a device of n queues.
func keep(n int) {
	_ = confine.Keep() // it has what it needs; a build with cgo keeps the rights of its parent
	s := &tunnelSender{fd: keeperTunnel}
	queues := make([]unix.PollFd, n)
	for i := range queues {
		queues[i] = unix.PollFd{Fd: keeperTUN + int32(i), Events: unix.POLLIN}
	}
	buf := make([]byte, VnetHeaderLen+MaxPacketLen)
	for {
		fds := []unix.PollFd{{Fd: keeperControl, Events: unix.POLLIN}, {Fd: keeperTunnel, Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		// What it is told of the tunnel comes first: one that has just begun finds both.
		if fds[0].Revents != 0 && s.obey(queues, buf) {
			return
		}
		if fds[1].Revents&unix.POLLIN != 0 && s.succeeded(buf) {
			s.drain(queues, buf, keeperLife)
		}
	}
}

// obey does what the appliance says, or what is due when it is dead, and reports whether that is the end.
func (s *tunnelSender) obey(queues []unix.PollFd, buf []byte) (end bool) {
	n, err := unix.Read(keeperControl, buf[:keeperMessage]) // as it was written: less than PIPE_BUF
	switch {
	case errors.Is(err, unix.EINTR):
	case err != nil || n != keeperMessage: // the appliance is dead
		s.drain(queues, buf, keeperLife)
		return true
	case binary.BigEndian.Uint32(buf) == keeperQuit:
		return true
	default:
		s.to(int(binary.BigEndian.Uint32(buf)), buf[4:10], buf[10:16])
	}
	return false
}

// succeeded reports whether the peer says that it has taken over.
func (s *tunnelSender) succeeded(buf []byte) bool {
	n, err := unix.Read(s.fd, buf)
	const at = VnetHeaderLen + etherLen
	return err == nil && n >= at+len(successorSays) && string(buf[at:at+len(successorSays)]) == successorSays
}

// drain hands on what is in the device's queues, and what comes for so long. Without a CPU for that time it has not seen
// what is there: it ends when nothing is left, or is at most keeperLate late.
func (s *tunnelSender) drain(queues []unix.PollFd, buf []byte, life time.Duration) {
	if s.dest.Load() == nil {
		return
	}
	for end := time.Now().Add(life); ; {
		idle := true
		for _, q := range queues { // in turn: each is as long as the other ones
			n, err := unix.Read(int(q.Fd), buf)
			switch {
			case err == nil && n > VnetHeaderLen:
				idle = false
				s.handOn(buf[:n], end.Add(keeperLate))
			case err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR):
				return // the device was deleted
			}
		}
		left := time.Until(end).Milliseconds()
		switch {
		case left <= 0 && (idle || time.Since(end) > keeperLate):
			return
		case idle:
			_, _ = unix.Poll(queues, int(left))
		}
	}
}

// handOn sends a packet with its virtio-net header, if it can be sent before end.
func (s *tunnelSender) handOn(b []byte, end time.Time) {
	for s.send([][]byte{b[:VnetHeaderLen], b[VnetHeaderLen:]}) == unix.EAGAIN && time.Now().Before(end) {
		_, _ = unix.Poll([]unix.PollFd{{Fd: keeperTunnel, Events: unix.POLLOUT}}, int(time.Until(end).Milliseconds()))
	} // whatever else is wrong with it, the next may pass
}

// tunnelSender puts packets into the tunnel, superpackets among them.
type tunnelSender struct {
	fd   int
	dest atomic.Pointer[tunnelDest]
}

type tunnelDest struct {
	index int
	ether [etherLen]byte // destination, source, type
}

func newTunnelSender() (*tunnelSender, error) {
	// Protocol 0: nothing is received.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("send superpackets by a packet socket: %w", err)
	}
	return &tunnelSender{fd: fd}, nil
}

func (s *tunnelSender) close() error { return unix.Close(s.fd) }

func (s *tunnelSender) to(index int, src, dst []byte) {
	d := &tunnelDest{index: index}
	copy(d.ether[:], dst)
	copy(d.ether[6:], src)
	s.dest.Store(d)
}

// send puts a packet into the tunnel; bufs[0] is its virtio-net header.
func (s *tunnelSender) send(bufs [][]byte) error {
	var h VnetHeader
	if err := h.Decode(bufs[0]); err != nil {
		return err
	}
	proto := uint16(unix.ETH_P_IP)
	if len(bufs[1]) > 0 && bufs[1][0]>>4 == 6 {
		proto = unix.ETH_P_IPV6
	}
	if h.Flags&FlagNeedsCsum != 0 {
		h.CsumStart += etherLen
	} else {
		h.Flags = 0 // nobody takes our word for a checksum
	}
	if h.GSOType != GSONone {
		h.HdrLen += etherLen
	}
	var hdr [VnetHeaderLen]byte
	h.Encode(hdr[:])
	return s.frame(hdr[:], proto, bufs[1:])
}

const etherLen = 14

// frame sends one frame, or fails at once.
func (s *tunnelSender) frame(hdr []byte, proto uint16, payload [][]byte) error {
	d := s.dest.Load()
	if d == nil {
		return ErrNoTunnel
	}
	ether := d.ether
	binary.BigEndian.PutUint16(ether[12:], proto)
	to := &unix.SockaddrLinklayer{Ifindex: d.index, Protocol: hton16(proto)}
	_, err := unix.SendmsgBuffers(s.fd, append([][]byte{hdr, ether[:]}, payload...), nil, to, unix.MSG_DONTWAIT)
	return err
}
