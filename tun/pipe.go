package tun

import (
	"io"
	"os"
	"sync"
	"sync/atomic"
)

// Defaults of Pipe.
const (
	PipeMTU   = 1500
	PipeQueue = 1024 // packets per direction
)

// PipeEnd is one end of an in-memory Device pair: what one end writes the
// other reads, header and bytes unchanged. A full queue drops, as a device
// does; so does a closed far end.
type PipeEnd struct {
	idle func() // see Device.OnIdle

	name    string
	mtu     int
	in      chan []byte // header and packet; owned by the receiver once queued
	peer    *PipeEnd
	done    chan struct{}
	once    sync.Once
	dropped atomic.Uint64
}

var _ Device = (*PipeEnd)(nil)

// Pipe returns two connected devices with the default limits.
func Pipe() (a, b *PipeEnd) { return PipeSize(PipeMTU, PipeQueue) }

// PipeSize is Pipe with a given MTU (bytes, told but not enforced, since
// superpackets exceed it) and queue length (packets per direction, at least 1).
func PipeSize(mtu, queue int) (a, b *PipeEnd) {
	queue = max(queue, 1)
	a = &PipeEnd{name: "pipe-a", mtu: mtu, in: make(chan []byte, queue), done: make(chan struct{})}
	b = &PipeEnd{name: "pipe-b", mtu: mtu, in: make(chan []byte, queue), done: make(chan struct{})}
	a.peer, b.peer = b, a
	return a, b
}

// ReadV implements Device. Packets queued before Close are not delivered after.
func (p *PipeEnd) ReadV(bufs [][]byte) (int, error) {
	if len(bufs) == 0 || len(bufs[0]) != VnetHeaderLen {
		return 0, errHeaderBuf
	}
	select {
	case <-p.done:
		return 0, os.ErrClosed
	default:
	}
	select {
	case pkt := <-p.in:
		return scatter(bufs, pkt), nil
	default:
		if p.idle != nil {
			p.idle()
		}
	}
	select {
	case <-p.done:
		return 0, os.ErrClosed
	case pkt := <-p.in:
		return scatter(bufs, pkt), nil
	}
}

// scatter copies pkt over bufs and returns the length without the header.
func scatter(bufs [][]byte, pkt []byte) int {
	n := 0
	for _, b := range bufs {
		c := copy(b, pkt)
		pkt = pkt[c:]
		n += c
	}
	return n - VnetHeaderLen
}

// OnIdle implements Device.
func (p *PipeEnd) OnIdle(f func()) { p.idle = f }

// WriteV implements Device.
func (p *PipeEnd) WriteV(bufs [][]byte) error {
	if len(bufs) == 0 || len(bufs[0]) != VnetHeaderLen {
		return errHeaderBuf
	}
	select {
	case <-p.done:
		return os.ErrClosed
	default:
	}
	size := 0
	for _, b := range bufs {
		size += len(b)
	}
	if size > VnetHeaderLen+MaxPacketLen {
		return io.ErrShortWrite
	}
	pkt := make([]byte, 0, size)
	for _, b := range bufs {
		pkt = append(pkt, b...)
	}
	select {
	case <-p.peer.done:
		p.dropped.Add(1)
		return nil
	default:
	}
	select {
	case p.peer.in <- pkt:
	default:
		p.dropped.Add(1)
	}
	return nil
}

// Dropped counts packets written here that the other end could not take.
func (p *PipeEnd) Dropped() uint64 { return p.dropped.Load() }

func (p *PipeEnd) Name() string { return p.name }

func (p *PipeEnd) MTU() int { return p.mtu }

// Close implements Device; the other end stays open and reads nothing more.
func (p *PipeEnd) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}
