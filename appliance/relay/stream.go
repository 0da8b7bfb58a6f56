package relay

import (
	"sync/atomic"

	"lockstep/replication"
	"lockstep/stack"
)

// moveMax is how many bytes one stream moves before the other connections get
// their turn.
const moveMax = 1 << 20

// stream is one direction.
type stream struct {
	src, dst *stack.Leg
	// base is the offset of the front of src's receive queue; next that of the
	// first byte not yet written to dst; shipped that of the first not yet
	// handed to the journal. base <= next unless bytes from a takeover are left
	// in stash, which holds [base-len(stash), base).
	base, next, shipped uint64
	stash               [][]byte
	stashLen            int
	finShipped          bool   // the journal knows of the FIN
	finPassed           bool   // dst has our FIN queued
	end                 uint64 // offset of the FIN, valid with finPassed

	delivered atomic.Uint64
	permit    atomic.Uint64 // the journal's; discard not above it while protected
	needFrom  atomic.Uint64 // the journal wants [needFrom, needTo)
	needTo    atomic.Uint64
}

// trim discards what is delivered, and is known to be.
func (c *Conn) trim(id replication.Stream) {
	s := &c.streams[id]
	d := s.delivered.Load()
	if c.protected.Load() {
		d = min(d, s.permit.Load())
	}
	if d = min(d, s.next); d <= s.base-uint64(s.stashLen) {
		return
	}
	if s.stashLen > 0 {
		s.src.SetAhead(s.base - min(d, s.base))
	}
	if s.stashLen > 0 && d >= s.base {
		s.stash, s.stashLen = nil, 0
	}
	if s.stashLen == 0 && d > s.base {
		s.src.Discard(int(d - s.base))
		s.base = d
	}
}

// ship hands over response bytes that the journal asked for.
func (c *Conn) ship(id replication.Stream) {
	s := &c.streams[id]
	from, to := s.needFrom.Load(), s.needTo.Load()
	if to == 0 || !c.protected.Load() {
		return
	}
	s.needTo.Store(0)
	fin := s.finPassed && to > s.end
	if fin {
		to = s.end
	}
	if from < s.base {
		// Delivered and discarded meanwhile, or still in the stash: the gate
		// opens by delivery, or the standby was given it at the takeover.
		return
	}
	bufs := c.r.buffers()
	var n int
	if to > from {
		bufs, n, _ = s.src.Peek(bufs, int(from-s.base), int(to-from))
	}
	c.r.journal.Data(c.ID, id, from, bufs, fin && from+uint64(n) == s.end)
	c.r.release(bufs)
}

// move carries bytes from src to dst. again: there is more.
func (c *Conn) move(id replication.Stream) (again bool) {
	s := &c.streams[id]
	if s.finPassed || !s.src.Established() || !s.dst.Established() || !s.dst.Confirmed() {
		return false
	}
	if !c.moveStash(s) {
		return false
	}
	if id == replication.Request && c.protected.Load() && c.r.journal.Congested() {
		c.paused.Store(true)
		return false
	}
	bufs := c.r.buffers()
	defer func() { c.r.release(bufs) }()
	var n int
	var eof bool
	bufs, n, eof = s.src.Peek(bufs, int(s.next-s.base), moveMax)
	if n == 0 && !eof {
		return false
	}
	c.movedAt.Store(int64(c.r.now()))
	c.tell(id, s, bufs, n, eof)
	if n > 0 {
		w, err := s.dst.Write(bufs, n)
		s.next += uint64(w)
		if err != nil || w < n {
			return false // full, or failed: an event follows
		}
	}
	if eof {
		s.finPassed, s.end = true, s.next
		s.dst.CloseWrite()
		return false
	}
	return n == moveMax
}

// moveStash writes what a takeover left to deliver; false while some is left.
func (c *Conn) moveStash(s *stream) bool {
	for s.next < s.base {
		skip := int(s.next - (s.base - uint64(s.stashLen)))
		bufs, n := after(s.stash, skip)
		w, err := s.dst.Write(bufs, n)
		s.next += uint64(w)
		if err != nil || w == 0 {
			return false
		}
	}
	return true
}

// after returns the part of bufs that follows skip bytes.
func after(bufs [][]byte, skip int) (rest [][]byte, n int) {
	for _, b := range bufs {
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		rest = append(rest, b[skip:])
		n += len(b) - skip
		skip = 0
	}
	return rest, n
}

// tell gives the journal what was read: request bytes at once, of responses only
// how far they go, because the server still has them.
func (c *Conn) tell(id replication.Stream, s *stream, bufs [][]byte, n int, eof bool) {
	if !c.protected.Load() {
		return
	}
	to := s.next + uint64(n)
	if id == replication.Response {
		if eof {
			to++
		}
		if to > s.shipped {
			c.r.journal.Received(c.ID, id, to, eof)
			s.shipped = to
		}
		return
	}
	if to > s.shipped || eof && !s.finShipped {
		fresh := bufs
		if s.shipped > s.next {
			fresh, _ = after(bufs, int(s.shipped-s.next))
		}
		c.r.journal.Data(c.ID, id, max(s.shipped, s.next), fresh, eof)
		s.shipped, s.finShipped = to, eof
	}
}
