package tun

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"
)

// Device carries IP packets, superpackets of up to 64 KB among them, each
// behind its virtio-net header.
type Device interface {
	// ReadV waits for one packet and scatters virtio-net header and IP packet
	// over bufs; bufs[0] must be exactly VnetHeaderLen long. n counts the
	// packet's bytes after the header. bufs belong to the device until ReadV
	// returns. One reader at a time, of each queue. After Close it returns os.ErrClosed.
	//
	// A packet longer than bufs is cut off silently (the kernel does not say),
	// so offer MaxPacketLen bytes and compare with the IP header's own length.
	ReadV(bufs [][]byte) (n int, err error)
	// OnIdle makes ReadV call f each time before it waits because no packet is
	// queued: the moment to pass on what a reader gathers over several packets.
	// It must be called before the first ReadV.
	OnIdle(f func())
	// WriteV writes one packet; bufs[0] is the encoded header. bufs are the
	// caller's again when it returns. Safe for concurrent use. An error
	// concerns this packet only (EIO while the link is down, ENOBUFS under
	// memory pressure, EINVAL for a header that lies), unless it is
	// os.ErrClosed.
	WriteV(bufs [][]byte) error
	// Look tells how far the reader is. Safe for concurrent use.
	Look() Look
	Name() string
	MTU() int
	// Close unblocks the reader and, where the device is the kernel's,
	// removes the interface and its routes. It may be called twice.
	Close() error
}

// maxIovecs is the kernel's limit for one readv or writev (UIO_MAXIOV).
const maxIovecs = 1024

var (
	errTooManyBufs = fmt.Errorf("tun: more than %d buffers for one packet", maxIovecs)
	errHeaderBuf   = fmt.Errorf("tun: first buffer must hold exactly the %d byte virtio-net header", VnetHeaderLen)
	errShortPacket = errors.New("tun: kernel returned less than a virtio-net header")
)

// nativeDevice is a kernel TUN device. wireguard/tun makes it and sets its
// offloads; reading and writing go past wireguard/tun, which would split every
// superpacket into MTU-sized ones and join them again.
type nativeDevice struct {
	wg   wgtun.Device
	file *os.File
	raw  syscall.RawConn
	name string
	mtu  int

	rd      vecOp     // used by the one reader only
	reader  progress  // told by it
	writers sync.Pool // of *vecOp; idle ones are the garbage collector's

	queues []*nativeDevice // the other queues of the same device; they have none

	closed  atomic.Bool
	once    sync.Once
	err     error         // of the first Close; read after once
	drained chan struct{} // closed when wireguard's goroutines have ended
}

// vecOp is one readv or writev with everything it needs allocated beforehand:
// the iovecs, and the function value for the poller, which would otherwise be
// allocated per packet.
type vecOp struct {
	trap uintptr // SYS_READV or SYS_WRITEV
	iovs []unix.Iovec
	n    int
	err  error

	idle func()                // called before wait parks; may be nil
	told *progress             // of a reader; nil: it is a writer's
	wait func(fd uintptr) bool // for RawConn.Read/Write: false means park until ready
	once func(fd uintptr)      // for RawConn.Control: one try
}

func newVecOp(trap uintptr) *vecOp {
	op := &vecOp{}
	op.init(trap)
	return op
}

func (op *vecOp) init(trap uintptr) {
	op.trap = trap
	op.iovs = make([]unix.Iovec, 0, 64)
	op.wait = func(fd uintptr) bool {
		if op.told != nil {
			op.told.begin()
		}
		op.try(fd)
		if op.err != unix.EAGAIN {
			return true
		}
		if op.idle != nil {
			op.idle()
		}
		if op.told != nil {
			op.told.end()
		}
		return false
	}
	op.once = op.try
}

// try does the system call once, again if a signal interrupted it.
func (op *vecOp) try(fd uintptr) {
	for {
		n, _, errno := unix.Syscall(op.trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(op.iovs))), uintptr(len(op.iovs)))
		switch errno {
		case 0:
			op.n, op.err = int(n), nil
			return
		case unix.EINTR:
			continue
		case unix.EAGAIN: // a constant, so that boxing it does not allocate
			op.n, op.err = 0, unix.EAGAIN
			return
		default:
			op.n, op.err = 0, errno
			return
		}
	}
}

// load points the iovecs at bufs, empty ones left out.
func (op *vecOp) load(bufs [][]byte) error {
	if len(bufs) == 0 || len(bufs[0]) != VnetHeaderLen {
		return errHeaderBuf
	}
	if len(bufs) > maxIovecs {
		return errTooManyBufs
	}
	for _, b := range bufs {
		if len(b) == 0 {
			continue
		}
		v := unix.Iovec{Base: unsafe.SliceData(b)}
		v.SetLen(len(b))
		op.iovs = append(op.iovs, v)
	}
	return nil
}

// unload forgets the buffers, so that an idle op keeps nobody's memory alive.
func (op *vecOp) unload() {
	clear(op.iovs)
	op.iovs = op.iovs[:0]
}

// Open makes the TUN device called name (at most 15 bytes; "%d" in it lets the
// kernel number it) in the caller's network namespace. mtu is in bytes. The
// link stays down until InstallRoutes or somebody else sets it up.
func Open(name string, mtu int) (Device, error) {
	wg, err := wgtun.CreateTUN(name, mtu)
	for end := time.Now().Add(keptFor); kept(err) && time.Now().Before(end); {
		time.Sleep(keptPause)
		wg, err = wgtun.CreateTUN(name, mtu)
	}
	return open(wg, err, name)
}

// A killed predecessor's Keeper has the device for a moment: how long it is waited for, and between two looks.
const (
	keptFor   = 10 * keeperLife
	keptPause = 20 * time.Millisecond
)

// kept reports whether that may be why the device cannot be made. EINVAL: one has several queues, the other has not. (If it is
// for another cause, that is said so much later.)
func kept(err error) bool { return errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EINVAL) }

func open(wg wgtun.Device, err error, name string) (*nativeDevice, error) {
	if err != nil {
		return nil, fmt.Errorf("open tun %q: %w%s", name, err, openHint(err))
	}
	// wireguard/tun blocks on its event channel, and with it its goroutines'
	// ends; whoever needs link changes has WatchLinks.
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for range wg.Events() {
		}
	}()
	d := &nativeDevice{wg: wg, file: wg.File(), drained: drained}
	if err := d.setup(); err != nil {
		d.Close()
		return nil, fmt.Errorf("open tun %q: %w", name, err)
	}
	return d, nil
}

func (d *nativeDevice) setup() error {
	var err error
	if d.name, err = d.wg.Name(); err != nil {
		return fmt.Errorf("read name: %w", err)
	}
	if d.mtu, err = d.wg.MTU(); err != nil {
		return fmt.Errorf("read mtu: %w", err)
	}
	return d.access()
}

// access prepares reading and writing.
func (d *nativeDevice) access() (err error) {
	if d.raw, err = d.file.SyscallConn(); err != nil {
		return fmt.Errorf("access descriptor: %w", err)
	}
	var size int
	var serr error
	if err := d.raw.Control(func(fd uintptr) {
		size, serr = unix.IoctlGetInt(int(fd), unix.TUNGETVNETHDRSZ)
	}); err != nil {
		return fmt.Errorf("access descriptor: %w", err)
	}
	if serr != nil {
		return fmt.Errorf("read virtio-net header size: %w", serr)
	}
	if size != VnetHeaderLen {
		return fmt.Errorf("virtio-net header is %d bytes, want %d", size, VnetHeaderLen)
	}
	d.rd.init(unix.SYS_READV)
	d.rd.told = &d.reader
	d.writers.New = func() any { return newVecOp(unix.SYS_WRITEV) }
	return nil
}

func openHint(err error) string {
	switch {
	case errors.Is(err, unix.EBUSY):
		return " (another process holds it, or somebody has made it: is an appliance already running here? If not, delete it: ip link del)"
	case errors.Is(err, unix.EINVAL):
		return " (does another process hold it, with several queues? is an appliance already running here? If not, the kernel may lack IFF_MULTI_QUEUE)"
	case errors.Is(err, os.ErrPermission):
		return " (needs CAP_NET_ADMIN and read-write access to /dev/net/tun)"
	case errors.Is(err, unix.ENODEV), errors.Is(err, os.ErrNotExist):
		return " (is the tun module loaded? try: modprobe tun)"
	}
	if _, serr := os.Stat("/dev/net/tun"); errors.Is(serr, os.ErrNotExist) {
		return " (is the tun module loaded? try: modprobe tun)"
	}
	return ""
}

// ReadV implements Device.
func (d *nativeDevice) ReadV(bufs [][]byte) (int, error) {
	op := &d.rd
	d.reader.again()
	if err := op.load(bufs); err != nil {
		return 0, err
	}
	// RawConn.Read calls the function before it parks, so while packets queue
	// up the poller is not involved.
	rerr := d.raw.Read(op.wait)
	op.unload()
	switch {
	case rerr != nil:
		// No deadline is ever set, so without Close the poller can only mean
		// that it got an error condition, which a TUN descriptor has once it
		// lost its interface.
		return 0, d.opErr("read", unix.EBADFD)
	case op.err == unix.EFAULT:
		// So says the kernel between the interface's shutdown and its end; our
		// buffers are always mapped.
		return 0, d.opErr("read", unix.EBADFD)
	case op.err != nil:
		return 0, d.opErr("read", op.err)
	}
	d.reader.has = true
	if op.n < VnetHeaderLen {
		return 0, errShortPacket
	}
	return op.n - VnetHeaderLen, nil
}

// OnIdle implements Device.
func (d *nativeDevice) OnIdle(f func()) { d.rd.idle = f }

// WriteV implements Device.
func (d *nativeDevice) WriteV(bufs [][]byte) error {
	op := d.writers.Get().(*vecOp)
	defer d.writers.Put(op)
	if err := op.load(bufs); err != nil {
		op.unload()
		return err
	}
	// Control takes no write lock, so that several writers run the kernel's
	// forwarding path side by side; only in the rare EAGAIN (socket memory
	// used up) do they queue in RawConn.Write for readiness.
	rerr := d.raw.Control(op.once)
	if rerr == nil && op.err == unix.EAGAIN {
		rerr = d.raw.Write(op.wait)
	}
	err := op.err
	op.unload()
	if rerr != nil {
		return d.opErr("write", rerr)
	}
	if err != nil {
		return d.opErr("write", err)
	}
	return nil
}

// opErr names the failed operation. RawConn reports a closed file with an
// error of its own that is not os.ErrClosed; the kernel says EBADFD when
// somebody deleted the interface, which is as final.
func (d *nativeDevice) opErr(op string, err error) error {
	if d.closed.Load() {
		return os.ErrClosed
	}
	if errors.Is(err, unix.EBADFD) {
		return fmt.Errorf("%s tun %q: the interface was deleted: %w", op, d.name, os.ErrClosed)
	}
	return fmt.Errorf("%s tun %q: %w", op, d.name, err)
}

func (d *nativeDevice) Name() string { return d.name }

// MTU is the one at the time of Open.
func (d *nativeDevice) MTU() int { return d.mtu }

// Close implements Device. It returns once wireguard's goroutines are gone.
func (d *nativeDevice) Close() error {
	d.once.Do(func() {
		d.closed.Store(true)
		for _, q := range d.queues {
			_ = q.Close()
		}
		if d.wg == nil { // one of several queues, of which another one has the device
			d.err = d.file.Close()
			return
		}
		if err := d.wg.Close(); err != nil {
			d.err = fmt.Errorf("close tun %q: %w", d.name, err)
		}
		<-d.drained
	})
	return d.err
}
