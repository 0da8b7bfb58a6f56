package relay

import (
	"sync/atomic"
	"time"

	"lockstep/replication"
)

// A peer's RST, or its silent death, ends its leg at once, but not what it has said
// before: a server that answers and closes without having read all of a request sends
// its answer and then a RST (RFC 9293, 3.10.4; RFC 1122, 4.2.2.13). Without a gateway the
// client has the answer in its receive buffer before the RST comes. So it is here: what
// the ended leg has received goes to the other one, and when its peer has acknowledged
// all of it the reset is passed on.
//
// The bytes are in no sender's queue any more, so the standby gets them at once. It
// need not be told of the reset: if it takes over it asks the peer where it is, and
// hears the RST again.

const (
	// drainSilent is how long the receiver may acknowledge nothing, drainMax how long
	// it may take in all. Then it is reset with what it has.
	drainSilent = 10 * time.Second
	drainMax    = 2 * time.Minute
)

// draining is what is known of a connection of which one leg has ended.
type draining struct {
	on      atomic.Bool // read by the janitor, which runs the connection from time to time
	since   time.Duration
	moved   time.Duration // when the receiver has last acknowledged something
	acked   uint64        // how far that was
	secured bool          // the standby has what is left
}

// begin notes that a leg has ended.
func (d *draining) begin(now time.Duration) {
	if !d.on.Swap(true) {
		d.since, d.moved, d.acked = now, now, 0 // what is counted differs from time to time
	}
}

// late reports whether the receiver, which has acknowledged everything below acked, has
// had its time: silent without a sign of progress.
func (d *draining) late(now time.Duration, acked uint64, silent time.Duration) bool {
	if acked > d.acked {
		d.acked, d.moved = acked, now
	}
	if silent == 0 {
		silent = drainSilent
	}
	return now-d.moved > silent || now-d.since > drainMax
}

// stepDraining is stepOpen of a connection of which one leg has ended.
func (c *Conn) stepDraining() (again bool) {
	id := replication.Response
	if c.client.Err() != nil {
		id = replication.Request
	}
	s := &c.streams[id]
	c.drain.begin(c.r.now())
	if s.dst.Err() != nil {
		c.abort()
		return false
	}
	c.trim(id)
	c.secure(id)
	for c.move(id) {
	}
	if c.passedOn(id) || c.drain.late(c.r.now(), s.delivered.Load(), c.svc.Drain) {
		c.abort()
	}
	return false
}

// nothingLeft reports whether all that id's sender has sent is written to the receiver.
func (c *Conn) nothingLeft(id replication.Stream) bool {
	s := &c.streams[id]
	if s.finPassed {
		return true
	}
	if s.next < s.base {
		return false
	}
	_, n, eof := s.src.Peek(nil, int(s.next-s.base), 1)
	return n == 0 && !eof
}

// passedOn reports whether the receiver has all that id's sender has sent.
func (c *Conn) passedOn(id replication.Stream) bool {
	s := &c.streams[id]
	if s.finPassed {
		return s.delivered.Load() > s.end
	}
	return c.nothingLeft(id) && s.delivered.Load() >= s.next
}

// secure hands to the journal what is left of a response whose server has ended: it
// does not send that again. Request bytes are with the journal as soon as they are read.
func (c *Conn) secure(id replication.Stream) {
	if c.drain.secured || !c.protected.Load() || id != replication.Response {
		return
	}
	c.drain.secured = true
	s := &c.streams[id]
	for off := s.base; ; {
		bufs, n, eof := s.src.Peek(c.r.buffers(), int(off-s.base), moveMax)
		if end := off + uint64(n); end > s.shipped || eof {
			to := end
			if eof {
				to++
			}
			c.r.journal.Received(c.ID, id, to, eof)
			s.shipped = max(s.shipped, to)
		}
		c.r.journal.Data(c.ID, id, off, bufs, eof)
		c.r.release(bufs)
		off += uint64(n)
		if n < moveMax {
			return
		}
	}
}
