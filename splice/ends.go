package splice

import "time"

const (
	// tombstoneIdle is how long an end is remembered after the last packet: a few time-outs of a
	// peer that repeats its FIN, as of other connections' tombstones.
	tombstoneIdle = 10 * time.Second
	// tombstoneMost is how long at most: TIME-WAIT of most hosts.
	tombstoneMost = 60 * time.Second
	// grace is for how long after a RST what its receiver had sent before may still come.
	grace = time.Second
	// askAgain is between two questions.
	askAgain = time.Second
	// doubtLife is how long it is asked whether an end has believed a RST.
	doubtLife = 10 * time.Second
	// quiet is after how long without a packet a half closed connection, of which one FIN may
	// have passed before a takeover, is asked about.
	quiet = 5 * time.Second
)

// rst takes a RST.
func (c *Conn) rst(s *segment) Event {
	e, r := &c.ends[s.from], &c.ends[s.from.Other()]
	switch {
	case c.asked.has() && c.asked.by() == s.from && s.seq == c.askedAck && s.flags&flagACK == 0:
		// A closed port's answer to our question, of which nobody else knows the number.
		c.proven = true
		if c.state >= Closed {
			return EventNone
		}
		return c.reset(s)
	case c.state >= Closed:
		return EventNone
	case c.state == Opening && s.from == Server && s.flags&flagACK != 0 && s.ack == c.ends[Client].next && c.offer.valid:
		if !c.located {
			return EventRefused
		}
		return c.reset(s)
	case c.state == Opening && !c.located:
		if s.from == Client && c.offer.valid && s.seq == e.next {
			return c.reset(s) // of its own SYN; another number answers an old connection's challenge
		}
		return EventNone
	case c.located && (s.seq == r.ack || s.seq == e.next):
		// From exactly where the receiver is (RFC 5961, 3.2), or will be when it has
		// what is on its way.
		return c.reset(s)
	case !c.located || !after(r.ack, s.seq) && !after(s.seq, r.edge):
		// A receiver may believe it that does not know RFC 5961, and one may be somewhere
		// else than it seems here.
		c.doubt = momentOf(s.now, s.from.Other())
	}
	return EventNone
}

func (c *Conn) reset(s *segment) Event {
	c.state, c.ended, c.doubt = Reset, momentOf(s.now, s.from), 0
	return EventEnded
}

// afterEnd takes a segment of a tombstone. It may show that there was no end.
func (c *Conn) afterEnd(s *segment) Event {
	if s.now-c.ended.at() <= grace || s.flags&flagACK == 0 {
		return EventNone
	}
	e, r := &c.ends[s.from], &c.ends[s.from.Other()]
	switch {
	case c.state == Reset && s.from == c.ended.by():
		return EventNone
	case c.state == Reset && c.proven && !c.track(s):
		return EventNone
	case c.state == Closed && (c.proven || before(s.end, e.fin) && before(s.ack, r.fin)):
		return EventNone
	}
	c.state = Open
	if !c.proven {
		c.unlocate()
		c.learn(s)
	}
	if c.settle(s) == EventEnded {
		return EventNone
	}
	return EventRevived
}

// lives notes that an end has said something that is believed. What it said right after a RST it
// may have said before it got it.
func (c *Conn) lives(s *segment) {
	if c.doubt.has() && c.doubt.by() == s.from && s.now-c.doubt.at() > grace {
		c.doubt = 0
	}
}

// before reports whether a is b, or so little before it that it may be of the same connection.
func before(a, b uint32) bool { return b-a <= maxWindow }

// Over reports whether a tombstone has been kept long enough.
func (c *Conn) Over(now time.Duration) bool {
	if c.state < Closed {
		return false
	}
	return now-max(c.Heard(), c.ended.at()) >= tombstoneIdle || now-c.ended.at() >= tombstoneMost
}

// Ask says whether an end is to be asked by Probe, because something it should know is not
// known here. To be called about once a second; with true it counts as asked.
func (c *Conn) Ask(now time.Duration) (to Side, ask bool) {
	if c.asked.has() && now-c.asked.at() < askAgain {
		return 0, false
	}
	switch {
	case c.state == Reset && !c.proven && now-c.ended.at() > grace:
		to, ask = c.ended.by().Other(), true // does it live?
	case c.state == Closed && !c.proven && now-c.ended.at() > grace:
		to, ask = c.asked.by().Other(), true
	case c.state < Closed && c.doubt.has() && now-c.doubt.at() < doubtLife:
		to, ask = c.doubt.by(), true
	case c.state == HalfClosed && !c.proven && now-c.Heard() >= quiet:
		to, ask = c.asked.by().Other(), true
	}
	if ask {
		c.asked = momentOf(now, to)
	}
	return to, ask
}

// Doubtful reports whether Ask may want something before long; an open connection does not begin to by itself.
func (c *Conn) Doubtful() bool { return c.state != Open || c.doubt.has() }

// toBeAsked reports whether an end may yet contradict what has ended the connection, which whoever does not
// see its segments may have made: nothing new begins in its place before. One that is closed confirms it, by
// the answer of which only it knows the number, and one that is gone is not waited for.
func (c *Conn) toBeAsked(now time.Duration) bool {
	return (c.state == Closed || c.state == Reset) && !c.proven && now-c.ended.at() <= grace+2*askAgain
}

// Kill makes the connection one that the gateway has ended: what comes is answered like by a
// closed port. Reset tells the ends.
func (c *Conn) Kill(now time.Duration) { c.state, c.ended = Killed, momentOf(now, c.ended.by()) }
