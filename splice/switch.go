package splice

// A connection that is passed on may be ended in netstack while it runs, and passed on again. This is
// the state machine of that: which packet goes where, and by whose word an acknowledgement may
// leave. It knows of no endpoint and of no standby; whoever has them says what has happened to
// them.

// Phase is how far a switch is.
type Phase uint8

const (
	// Passing: there are no endpoints, the standby holds that the connection is passed on.
	Passing Phase = iota
	// Draining: endpoints are there and begin at the points. What was sent before is between the two
	// ends; the standby is told nothing.
	Draining
	// Telling: the receivers have all from before the points. The standby is told that the
	// connection is ended here, and from then on of bytes and deliveries.
	Telling
	// Ended: the standby holds that, or there is none.
	Ended
	// Returning: the standby is told that the connection is passed on.
	Returning
	// Leaving: it holds that. Until nothing is on its way the endpoints go on.
	Leaving
)

var phaseNames = [...]string{"passing", "draining", "telling", "ended", "returning", "leaving"}

func (p Phase) String() string { return phaseNames[p] }

// Switch is where one connection stands between being passed on and being ended. The zero value is
// passed on.
type Switch struct {
	phase Phase
	point [2]uint32 // of each side's stream: the endpoints begin there
	acked [2]uint32 // of each side's stream: what its receiver has acknowledged
}

// Refusal says why a connection stays as it is.
type Refusal uint8

const (
	RefusalNone    Refusal = iota
	RefusalState           // not open: it begins, ends, or one end has sent its FIN
	RefusalUnknown         // it is not known where the ends are, or one has not been heard
	RefusalPhase           // it is being switched already
	RefusalHeld            // something is acknowledged that its receiver has not acknowledged
)

var refusalNames = [...]string{"", "not open", "positions unknown", "being switched", "acknowledged bytes are held"}

func (r Refusal) String() string { return refusalNames[r] }

// Begin chooses the points of a connection that is to be ended: behind everything that its ends have sent, and that the
// receiver takes: what lies beyond the newest window is refused as long as it does not read, and would never be out of the way.
// So no byte is in neither place: before the points the receiver gets it from the sender, behind
// them from the endpoint. Nothing was promised beyond the windows that the ends have announced
// themselves. (A FIN makes no new points: its connection is over soon.)
func (s *Switch) Begin(c *Conn) Refusal {
	switch {
	case s.phase != Passing:
		return RefusalPhase
	case c.state != Open:
		return RefusalState
	case !c.located || c.ends[Client].heard == 0 || c.ends[Server].heard == 0:
		return RefusalUnknown
	}
	for i := range c.ends {
		o := &c.ends[1-i]
		s.point[i], s.acked[i] = c.ends[i].next, o.ack
		if edge := o.ack + o.span(o.window); after(s.point[i], edge) {
			s.point[i] = edge
		}
	}
	s.phase = Draining
	s.settle()
	return RefusalNone
}

// Phase says how far it is.
func (s *Switch) Phase() Phase { return s.phase }

// Point is the sequence number at which the endpoints take up a side's stream.
func (s *Switch) Point(of Side) uint32 { return s.point[of] }

// Own is how far the receiver of a side's stream has acknowledged it.
func (s *Switch) Own(of Side) uint32 { return s.acked[of] }

// Route is where a segment goes.
type Route struct {
	// Whole: to the other end, as it is.
	Whole bool
	// Bare: to the other end without payload, from where that end is: what it acknowledges and
	// reports is news there.
	Bare bool
	// Endpoint: to the endpoint.
	Endpoint bool
}

// Segment decides about one of a side, without SYN, that takes the sequence space from seq to end, and
// acknowledges ack.
func (s *Switch) Segment(from Side, seq, end, ack uint32) Route {
	if s.phase == Passing {
		return Route{Whole: true}
	}
	o := from.Other()
	if after(ack, s.acked[o]) {
		s.acked[o] = ack
	}
	if s.phase != Draining {
		return Route{Endpoint: true} // what lies before the points the receiver has: the endpoint says so
	}
	r := Route{Whole: after(s.point[from], seq), Bare: !after(s.point[from], seq)}
	// A probe from below, or what comes again, is not for the endpoint. What reaches beyond the point is
	// for both: the same bytes.
	r.Endpoint = !r.Whole || after(end, s.point[from])
	s.settle()
	return r
}

// settle ends the draining when both receivers are at the points.
func (s *Switch) settle() {
	if s.phase == Draining && !after(s.point[Client], s.acked[Client]) && !after(s.point[Server], s.acked[Server]) {
		s.phase = Telling
	}
}

// Gate says by whose word an acknowledgement may leave. own: it may go no further than Own, so a
// standby that knows the connection as passed on loses nothing. rule: no further than what the
// standby is known to hold or to know delivered, so one that knows it as ended loses nothing.
// While it may be either, both.
func (s *Switch) Gate() (own, rule bool) {
	return s.phase != Ended, s.phase == Telling || s.phase == Ended || s.phase == Returning
}

// Told: the standby holds that the connection is ended here, or there is none.
func (s *Switch) Told() bool {
	if s.phase != Telling {
		return false
	}
	s.phase = Ended
	return true
}

// Return begins to pass on again. left is how far each side's stream has been acknowledged to
// it: not beyond its receiver, or bytes are here that only the pair has.
func (s *Switch) Return(left [2]uint32) Refusal {
	switch {
	case s.phase != Ended:
		return RefusalPhase
	case after(left[Client], s.acked[Client]) || after(left[Server], s.acked[Server]):
		return RefusalHeld
	}
	s.phase = Returning
	return RefusalNone
}

// ToldBack: the standby holds that the connection is passed on, or there is none.
func (s *Switch) ToldBack() bool {
	if s.phase != Returning {
		return false
	}
	s.phase = Leaving
	return true
}

// Leave ends the endpoints' part, if nothing is on its way: all that the ends have sent is
// acknowledged by its receiver and to its sender (left). Numbers are the ends' own, so nothing has
// to be translated from then on.
func (s *Switch) Leave(c *Conn, left [2]uint32) bool {
	if s.phase != Leaving {
		return false
	}
	for i := range left {
		if next := c.ends[i].next; next != s.acked[i] || next != left[i] {
			return false
		}
	}
	*s = Switch{}
	return true
}
