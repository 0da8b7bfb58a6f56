// Package tuntest has a tun.Device for tests: two ends joined in memory, with
// no kernel between them. It must not know what the packets mean.
package tuntest

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"lockstep/tun"
)

// Defaults of Pipe.
const (
	MTU   = 1500 // bytes
	Queue = 1024 // packets per direction
)

var errHeaderBuf = fmt.Errorf("tuntest: first buffer must hold exactly the %d byte virtio-net header", tun.VnetHeaderLen)

// End is one end of an in-memory tun.Device pair: what one end writes the
// other reads, header and bytes unchanged. A full queue drops, as a device
// does; so does a closed far end.
type End struct {
	idle func() // see tun.Device.OnIdle

	name    string
	mtu     int
	in      chan []byte // header and packet; owned by the receiver once queued
	peer    *End
	done    chan struct{}
	once    sync.Once
	dropped atomic.Uint64
}

var _ tun.Device = (*End)(nil)

// Pipe returns two connected devices with the default limits.
func Pipe() (a, b *End) { return PipeSize(MTU, Queue) }

// PipeSize is Pipe with a given MTU (bytes, told but not enforced, since
// superpackets exceed it) and queue length (packets per direction, at least 1).
func PipeSize(mtu, queue int) (a, b *End) {
	queue = max(queue, 1)
	a = &End{name: "pipe-a", mtu: mtu, in: make(chan []byte, queue), done: make(chan struct{})}
	b = &End{name: "pipe-b", mtu: mtu, in: make(chan []byte, queue), done: make(chan struct{})}
	a.peer, b.peer = b, a
	return a, b
}

// ReadV implements tun.Device. Packets queued before Close are not delivered after.
func (p *End) ReadV(bufs [][]byte) (int, error) {
	if len(bufs) == 0 || len(bufs[0]) != tun.VnetHeaderLen {
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
	return n - tun.VnetHeaderLen
}

// OnIdle implements tun.Device.
func (p *End) OnIdle(f func()) { p.idle = f }

// WriteV implements tun.Device.
func (p *End) WriteV(bufs [][]byte) error {
	if len(bufs) == 0 || len(bufs[0]) != tun.VnetHeaderLen {
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
	if size > tun.VnetHeaderLen+tun.MaxPacketLen {
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
func (p *End) Dropped() uint64 { return p.dropped.Load() }

// Look implements tun.Device. Of its reader an End knows nothing.
func (p *End) Look() tun.Look { return tun.Look{Waiting: len(p.in) > 0} }

func (p *End) Name() string { return p.name }

func (p *End) MTU() int { return p.mtu }

// Close implements tun.Device; the other end stays open and reads nothing more.
func (p *End) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}
