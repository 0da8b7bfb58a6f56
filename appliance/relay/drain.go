package relay

import (
	"lockstep/appliance/carry"
	"lockstep/replication"
)

// What is still done for a plain connection of which one leg has ended: see
// carry.Draining.
//
// The bytes are in no sender's queue any more, so the standby gets them at once. It
// need not be told of the reset: if it takes over it asks the peer where it is, and
// hears the RST again.

// stepDraining is stepOpen of a connection of which one leg has ended.
func (p *plain) stepDraining() (again bool) {
	id := replication.Response
	if p.c.client.Err() != nil {
		id = replication.Request
	}
	s := &p.streams[id]
	p.drain.Begin(p.c.r.now())
	if s.dst.Err() != nil {
		p.c.abort()
		return false
	}
	p.trim(id)
	p.secure(id)
	for p.move(id) {
	}
	if p.passedOn(id) || p.drain.Late(p.c.r.now(), s.Delivered.Load(), p.c.svc.Drain) {
		p.c.abort()
	}
	return false
}

// nothingLeft reports whether all that id's sender has sent is written to the receiver.
func (p *plain) nothingLeft(id replication.Stream) bool {
	s := &p.streams[id]
	if s.FinPassed {
		return true
	}
	if s.Next < s.Base {
		return false
	}
	_, n, eof := s.src.Peek(nil, int(s.Next-s.Base), 1)
	return n == 0 && !eof
}

// passedOn reports whether the receiver has all that id's sender has sent.
func (p *plain) passedOn(id replication.Stream) bool {
	s := &p.streams[id]
	if s.FinPassed {
		return s.Delivered.Load() > s.End
	}
	return p.nothingLeft(id) && s.Delivered.Load() >= s.Next
}

// secure hands to the journal what is left of a response whose server has ended: it
// does not send that again. Request bytes are with the journal as soon as they are read.
func (p *plain) secure(id replication.Stream) {
	if p.secured || !p.c.flags.Protected.Load() || id != replication.Response {
		return
	}
	p.secured = true
	s := &p.streams[id]
	for off := s.Base; ; {
		bufs, n, eof := s.src.Peek(carry.Buffers(), int(off-s.Base), carry.MoveMax)
		if end := off + uint64(n); end > s.Shipped || eof {
			to := end
			if eof {
				to++
			}
			p.c.r.journal.Received(p.c.ID, id, to, eof)
			s.Shipped = max(s.Shipped, to)
		}
		p.c.r.journal.Data(p.c.ID, id, off, bufs, eof)
		carry.Release(bufs)
		off += uint64(n)
		if n < carry.MoveMax {
			return
		}
	}
}
