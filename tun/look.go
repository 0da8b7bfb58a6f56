package tun

import (
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Look is how far a queue's reader is at one moment: whether what went into the queue before has been dealt with.
type Look struct {
	Waiting bool   // packets are in the queue
	Turns   uint64 // odd while the reader reads and deals with what it reads; even while it waits for more, or has not begun
	Done    uint64 // packets that it has dealt with
}

// TakenSince reports whether all that was in the queue at an earlier look has been dealt with, if the queue holds length packets at
// most. False says nothing.
func (l Look) TakenSince(earlier Look, length uint64) bool {
	switch {
	case !l.Waiting && l.Turns%2 == 0:
		return true
	case l.Turns >= earlier.Turns+2+earlier.Turns%2:
		return true // it has begun after that look, and come to the queue's end
	}
	return l.Done-earlier.Done > length // with the one that it may have had in its hands
}

// progress is what a queue's reader tells of itself: counts that only it changes.
type progress struct {
	turns, done atomic.Uint64
	has         bool // a packet that it has not dealt with; the reader's own
}

// begin is called before each attempt to read.
func (p *progress) begin() {
	if t := p.turns.Load(); t%2 == 0 {
		p.turns.Store(t + 1)
	}
}

// end is called when the queue was found empty.
func (p *progress) end() { p.turns.Add(1) }

// again is called when the reader is back from what it has read last.
func (p *progress) again() {
	if p.has {
		p.has = false
		p.done.Add(1)
	}
}

// Look implements Device. The queue is looked at first: what is not in it any more was taken by a reader that shows it.
func (d *nativeDevice) Look() (l Look) {
	_ = d.raw.Control(func(fd uintptr) {
		p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p[:], 0)
		l.Waiting = err != nil || n > 0 // interrupted: nobody knows
	})
	l.Turns, l.Done = d.reader.turns.Load(), d.reader.done.Load()
	return l
}

// Queue tells how many packets found no room in the TUN device, in any of its queues, and how many each of them holds.
func (r *Routes) Queue() (dropped, length uint64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return 0, 0, os.ErrClosed
	}
	link, err := r.nl.LinkByIndex(r.tunIndex)
	if err != nil {
		return 0, 0, fmt.Errorf("read the counters of %q: %w", r.cfg.TUN, err)
	}
	a := link.Attrs()
	if a.Statistics == nil {
		return 0, 0, fmt.Errorf("read the counters of %q: the kernel gives none", r.cfg.TUN)
	}
	return a.Statistics.TxDropped, uint64(max(a.TxQLen, 0)), nil
}
