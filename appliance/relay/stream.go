package relay

import (
	"lockstep/appliance/carry"
	"lockstep/replication"
	"lockstep/stack"
)

// stream is one direction of a plain connection.
type stream struct {
	carry.Stream
	src, dst *stack.Leg
	// Base <= Next unless bytes from a takeover are left in stash, which holds
	// [Base-len(stash), Base).
	stash    [][]byte
	stashLen int
}

// trim discards what is delivered, and is known to be.
func (p *plain) trim(id replication.Stream) {
	s := &p.streams[id]
	d := s.Delivered.Load()
	if p.c.flags.Protected.Load() {
		d = min(d, s.Permit.Load())
	}
	if d = min(d, s.Next); d <= s.Base-uint64(s.stashLen) {
		return
	}
	if s.stashLen > 0 {
		s.src.SetAhead(s.Base - min(d, s.Base))
	}
	if s.stashLen > 0 && d >= s.Base {
		s.stash, s.stashLen = nil, 0
	}
	if s.stashLen == 0 && d > s.Base {
		s.src.Discard(int(d - s.Base))
		s.Base = d
	}
}

// ship hands over response bytes that the journal asked for.
func (p *plain) ship(id replication.Stream) {
	s := &p.streams[id]
	from, to := s.NeedFrom.Load(), s.NeedTo.Load()
	if to == 0 || !p.c.flags.Protected.Load() {
		return
	}
	s.NeedTo.Store(0)
	fin := s.FinPassed && to > s.End
	if fin {
		to = s.End
	}
	if from < s.Base {
		// Delivered and discarded meanwhile, or still in the stash: the gate
		// opens by delivery, or the standby was given it at the takeover.
		return
	}
	bufs := carry.Buffers()
	var n int
	if to > from {
		bufs, n, _ = s.src.Peek(bufs, int(from-s.Base), int(to-from))
	}
	p.c.r.journal.Data(p.c.ID, id, from, bufs, fin && from+uint64(n) == s.End)
	carry.Release(bufs)
}

// move carries bytes from src to dst. again: there is more.
func (p *plain) move(id replication.Stream) (again bool) {
	s := &p.streams[id]
	if s.FinPassed || !s.src.Established() || !s.dst.Established() || !s.dst.Confirmed() {
		return false
	}
	if !p.moveStash(s) {
		return false
	}
	if id == replication.Request && p.c.flags.Protected.Load() && p.c.r.journal.Congested() {
		p.c.flags.Paused.Store(true)
		return false
	}
	bufs := carry.Buffers()
	defer func() { carry.Release(bufs) }()
	var n int
	var eof bool
	bufs, n, eof = s.src.Peek(bufs, int(s.Next-s.Base), carry.MoveMax)
	if n == 0 && !eof {
		return false
	}
	p.c.flags.Moved.Store(int64(p.c.r.now()))
	if p.c.flags.Protected.Load() {
		s.Tell(p.c.r.journal, p.c.ID, id, bufs, n, eof)
	}
	if n > 0 {
		w, err := s.dst.Write(bufs, n)
		s.Next += uint64(w)
		if err != nil || w < n {
			return false // full, or failed: an event follows
		}
	}
	if eof {
		s.FinPassed, s.End = true, s.Next
		s.dst.CloseWrite()
		return false
	}
	return n == carry.MoveMax
}

// moveStash writes what a takeover left to deliver; false while some is left.
func (p *plain) moveStash(s *stream) bool {
	for s.Next < s.Base {
		skip := int(s.Next - (s.Base - uint64(s.stashLen)))
		bufs, n := carry.After(s.stash, skip)
		w, err := s.dst.Write(bufs, n)
		s.Next += uint64(w)
		if err != nil || w == 0 {
			return false
		}
	}
	return true
}
