package splice

import "time"

// Offloaded is what whoever passes a connection's plain segments on in place of Forward has to know, and what he gives back:
// where the two ends are. A segment is plain if it has ACK and neither SYN, FIN, RST nor URG, if its receiver would take all of it,
// and, where timestamps are used, if its options begin with NOP NOP TS. Everything else is Forward's, after Reclaim.
type Offloaded struct {
	Addrs              Addrs
	V6                 bool
	AddrDiff, PortDiff uint16 // what is added to a checksum of the client's; of the server's: their complements
	TS                 bool
	Ends               [2]OffloadedEnd // indexed by Side
	Moved              time.Duration   // how long ago, see Conn.Moved; negative: not since
}

// OffloadedEnd is what is known of one side, as in Position.
type OffloadedEnd struct {
	Next, Ack, Edge, TSVal, Echoed uint32 // Echoed: the newest TSval that the other side has taken for an echo
	Window                         uint16
	Scale                          uint8
	Bytes, Delivered, Segments     uint64
	Heard                          time.Duration // how long ago; negative: not since
}

// Offload fills o. It reports false if there is more to a segment of this connection, now, than what Offloaded has: it is not
// open, it is not known where the ends are, or one has said something that is to be asked about.
func (c *Conn) Offload(o *Offloaded) bool {
	if c.state != Open || !c.located || c.doubt.has() {
		return false
	}
	*o = Offloaded{Addrs: c.Addrs(), V6: c.v6, AddrDiff: c.diff.addr, PortDiff: c.diff.port, TS: c.ts, Moved: -1}
	for s := range c.ends {
		e := &c.ends[s]
		if e.hasFIN || c.ts && !e.hasTS {
			return false
		}
		o.Ends[s] = OffloadedEnd{
			Next: e.next, Ack: e.ack, Edge: e.edge, TSVal: e.tsVal, Echoed: e.tsRecent, Window: e.window, Scale: uint8(max(e.ws, 0)),
			Bytes: e.bytes, Delivered: e.delivered, Segments: e.segments, Heard: -1,
		}
	}
	return true
}

// Alone reports whether a segment of s with n bytes, which was forwarded last, is all that is under way.
func (c *Conn) Alone(s Side, n uint32) bool {
	e, o := &c.ends[s], &c.ends[s.Other()]
	return c.located && e.next-o.ack == n && e.ack == o.next
}

// Reclaim takes down what has been seen since Offload. It may be called as often as wanted; nothing else changes c in between.
func (c *Conn) Reclaim(o *Offloaded, now time.Duration) {
	for s := range c.ends {
		e, k := &c.ends[s], &o.Ends[s]
		if k.Segments != e.segments {
			c.odd[s] = 0 // all of them are believed
		}
		e.next, e.ack, e.edge, e.tsVal, e.tsRecent, e.window = k.Next, k.Ack, k.Edge, k.TSVal, k.Echoed, k.Window
		e.bytes, e.delivered, e.segments = k.Bytes, k.Delivered, k.Segments
		if k.Heard >= 0 {
			e.heard = max(e.heard, now-k.Heard)
		}
	}
	if o.Moved >= 0 {
		c.moved = max(c.moved, now-o.Moved)
	}
}

// Mislaid is Reclaim when nothing is given back: where the ends are has to be learnt anew.
func (c *Conn) Mislaid() {
	if c.state == Open {
		c.unlocate()
	}
}
