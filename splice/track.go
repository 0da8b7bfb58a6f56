package splice

// oddMax is after how many segments of each side, none of which can be believed and none between
// that can, the tracker takes itself for wrong and learns anew.
const oddMax = 8

// Least window that is assumed when two segments of a connection are compared whose positions
// are not known, bytes: what is in flight may exceed a window that has just closed.
const slack = 1 << 16

// segment takes one with neither SYN nor RST.
func (c *Conn) segment(s *segment) Event {
	switch c.state {
	case Opening:
		return c.opening(s)
	case Closed, Reset:
		return c.afterEnd(s)
	}
	if s.flags&flagACK == 0 { // nobody takes that (RFC 9293, 3.10.7.4)
		return EventNone
	}
	if !c.located {
		c.learn(s)
	} else {
		c.track(s)
	}
	return c.settle(s)
}

// opening takes a segment before the client has answered the SYN-ACK.
func (c *Conn) opening(s *segment) Event {
	if !c.located || s.flags&flagACK == 0 {
		return EventNone // of a connection before this one, say
	}
	if s.from == Server {
		c.track(s)
		return EventNone
	}
	if c.hasCookie && s.ack == c.cookie+1 {
		c.answersEarlier()
	}
	// Only who has got the SYN-ACK knows the number: that proves that the client is there.
	if after(c.ends[Server].isn+1, s.ack) || !c.track(s) {
		return EventNone
	}
	c.state = Open
	if c.settle(s) == EventEnded {
		return EventEnded
	}
	return EventOpened
}

// answersEarlier goes back to the server's SYN-ACK before its newest: a server that sends SYN cookies answers
// a repeated SYN by another number, and believes an answer to either.
func (c *Conn) answersEarlier() {
	client, server := &c.ends[Client], &c.ends[Server]
	d := c.cookie - server.isn
	server.isn, server.next = c.cookie, c.cookie+1
	client.ack, client.edge = client.ack+d, client.edge+d
	c.hasCookie = false
}

// span is how many bytes e's window field stands for.
func (e *end) span(field uint16) uint32 {
	return uint32(field) << max(e.ws, 0)
}

// track notes what a segment says, if its receiver would believe it, and reports that.
func (c *Conn) track(s *segment) bool {
	e, r := &c.ends[s.from], &c.ends[s.from.Other()]
	// Acceptable as Linux has it: not before what the receiver has last acknowledged, not
	// beyond the window that it has announced (RFC 9293, 3.10.7.4); and the ACK within what was sent.
	if after(r.ack, s.end) || after(s.seq, r.edge) || after(s.ack, r.next) || e.ack-s.ack < 1<<31 && e.ack-s.ack > maxWindow {
		c.oddOne(s)
		return false
	}
	c.odd[s.from] = 0
	c.lives(s)
	next, ack := e.next, e.ack
	c.advance(e, r, s)
	if after(s.ack, e.ack) {
		c.acknowledge(e, r, s.ack)
	}
	if e.next != next || e.ack != ack {
		c.moved = s.now
	}
	if s.ack == e.ack {
		e.window = s.window
		if edge := s.ack + e.span(s.window); after(edge, e.edge) {
			e.edge = edge
		}
	}
	c.stamp(e, r, s)
	return true
}

// maxWindow is the largest window there is (RFC 7323, 2.3), bytes.
const maxWindow = 0xffff << 14

// advance notes new octets of e, and its FIN.
func (c *Conn) advance(e, r *end, s *segment) {
	to, fin := s.end, s.flags&flagFIN != 0
	if limit := r.edge + 1; after(to, limit) { // one octet beyond is a window probe
		to, fin = limit, false
	}
	if e.hasFIN && after(to, e.fin) {
		e.hasFIN = false // nothing comes behind a FIN: that was none of this end's
		e.bytes++
	}
	if after(to, e.next) {
		e.bytes += uint64(to - e.next)
		e.next = to
	}
	if fin && !e.hasFIN {
		// A FIN's octet is none of payload, also if an ACK has shown it before, which came with the number behind it while
		// the FIN was lost. Nor was what seemed to be sent behind it.
		e.bytes -= min(e.bytes, uint64(e.next-to)+1)
		e.hasFIN, e.fin, e.next = true, to, to
	}
}

// acknowledge notes an ACK of e for what r has sent.
func (c *Conn) acknowledge(e, r *end, ack uint32) {
	n := ack - e.ack
	if r.hasFIN && !after(r.fin, ack) && after(r.fin, e.ack) {
		n--
	}
	r.delivered += uint64(n)
	e.ack = ack
}

// stamp notes a segment's timestamp.
func (c *Conn) stamp(e, r *end, s *segment) {
	if !c.ts {
		return
	}
	at, ok := timestamp(s.opts)
	if !ok {
		return
	}
	v := be32(s.opts[at:])
	if !e.hasTS || after(v, e.tsVal) {
		e.tsVal = v
	}
	if (!e.hasTS || !after(e.tsRecent, v)) && !after(s.seq, r.ack) { // RFC 7323, 4.3 (2)
		e.tsRecent = v
	}
	e.hasTS = true
}

// oddOne counts a segment that is not believed.
func (c *Conn) oddOne(s *segment) {
	n := &c.odd[s.from]
	*n = min(*n+1, oddMax)
	if *n == oddMax && c.odd[s.from.Other()] == oddMax {
		c.unlocate()
	}
}

// unlocate forgets where the two are.
func (c *Conn) unlocate() {
	c.located, c.proven, c.odd = false, false, [2]uint8{}
	for i := range c.ends {
		e := &c.ends[i]
		e.heardIt, e.hasFIN, e.hasTS = false, false, false
	}
}

// learn takes a segment while it is not known where the two are. The newest of one side and
// the newest of the other must agree: each acknowledges about what the other has sent. Until then a forged
// one may pass for news: to end a connection that lives would be worse than to keep an idle one.
func (c *Conn) learn(s *segment) {
	e, r := &c.ends[s.from], &c.ends[s.from.Other()]
	if grown := s.end - e.next; e.heardIt && grown <= maxWindow && s.payload > 0 && grown > 0 {
		if s.flags&flagFIN != 0 {
			grown--
		}
		e.bytes += uint64(min(grown, s.payload))
	} else if !e.heardIt {
		e.bytes += uint64(s.payload)
	}
	if n := s.ack - e.ack; e.heardIt && n <= maxWindow {
		r.delivered += uint64(n)
	}
	if e.heardIt && (after(s.end, e.next) || after(s.ack, e.ack)) || !e.heardIt && s.payload > 1 { // a keepalive may have one
		c.moved = s.now
	}
	e.next, e.ack, e.window, e.edge = s.end, s.ack, s.window, s.ack+e.span(s.window)
	e.heardIt = true
	if s.flags&flagFIN != 0 {
		e.hasFIN, e.fin = true, s.end
	} else if e.hasFIN && s.end != e.fin {
		e.hasFIN = false
	}
	c.lives(s)
	if at, ok := timestamp(s.opts); ok { // whoever sends one has agreed on them, whatever the record says
		v := be32(s.opts[at:])
		c.ts, e.tsVal, e.tsRecent, e.hasTS = true, v, v, true
	}
	if !r.heardIt || !agree(e, r) || !agree(r, e) {
		return
	}
	c.located, c.odd = true, [2]uint8{}
	for _, x := range [2]*end{e, r} {
		y := r
		if x == r {
			y = e
		}
		if after(y.ack, x.next) {
			x.next = y.ack
		}
		if x.hasFIN && x.fin != x.next {
			x.hasFIN = false
		}
	}
}

// agree reports whether e's acknowledgement fits to what r has sent: within a window.
func agree(e, r *end) bool {
	w := max(e.span(e.window), slack)
	return r.next-e.ack+w <= 2*w
}

// settle says what the positions mean for the state.
func (c *Conn) settle(s *segment) Event {
	if !c.located {
		return EventNone
	}
	a, b := &c.ends[Client], &c.ends[Server]
	switch {
	case a.hasFIN && b.hasFIN && !after(a.fin, b.ack) && !after(b.fin, a.ack):
		c.state, c.ended = Closed, momentOf(s.now, s.from)
		return EventEnded
	case a.hasFIN || b.hasFIN:
		c.state = HalfClosed
	default:
		c.state = Open
	}
	return EventNone
}
