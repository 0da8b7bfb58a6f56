package relay

import (
	"strings"

	"lockstep/replication"
	"lockstep/stack"
)

// Every connection waits for something that comes: an event of a leg, of the journal or
// of a probe, or a timer. One that waits for nothing would stay for ever. That must not
// happen; so it is looked for, said, and ended.

// inspectEvery is how often each connection is looked at, in periods of the janitor.
const inspectEvery = 60

// inspect looks at an idle connection. One that waits for nothing is run: should an event
// have been lost, that makes up for it. If the next look finds the same, it is reset.
func (c *Conn) inspect() {
	if !c.schedule.CompareAndSwap(schedIdle, schedRunning) {
		return
	}
	stuck := c.phase != phaseDone && c.waitsFor() == ""
	var text string
	again := stuck && c.stuck
	if c.stuck = stuck; stuck {
		c.r.stuckN.Add(1)
		text = c.text()
	}
	c.r.sched.leave(c, stuck)
	if !stuck {
		return
	}
	if f := c.r.onStuck.Load(); f != nil {
		(*f)(text, again)
	}
	if again {
		c.kill(false)
	}
}

// OnStuck sets what is called with the description of a connection that waits for nothing;
// ended: it is reset now. It must not block.
func (r *Relay) OnStuck(f func(text string, ended bool)) { r.onStuck.Store(&f) }

// Stuck counts the findings.
func (r *Relay) Stuck() uint64 { return r.stuckN.Load() }

// WaitForNothing describes the connections that nobody runs and that wait for nothing.
func (r *Relay) WaitForNothing() (all []string) {
	r.Each(func(c *Conn) {
		c.atRest(func(c *Conn) {
			if c.phase != phaseDone && c.waitsFor() == "" {
				all = append(all, c.text())
			}
		})
	})
	return all
}

// Idle reports whether all workers wait. For tests.
func (r *Relay) Idle() bool { return r.sched.idle() }

// waitsFor says what a connection waits for that nobody runs; empty if for nothing. Only
// who has it may call it.
func (c *Conn) waitsFor() string {
	if c.rebuild.Load() != nil && c.bulk.Load() {
		return "its turn to be rebuilt"
	}
	if c.isPassed() {
		return c.passedWaitsFor()
	}
	switch c.phase {
	case phaseDialing:
		if c.carrier == nil || c.client.Err() != nil {
			break
		}
		if answered, err := c.carrier.Answered(); !answered && err == nil {
			return "a server's answer to our SYN"
		}
	case phaseOpening:
		if !c.flags.Opened.Load() {
			return "the standby's confirmation of its record"
		}
	case phaseAccepting:
		switch {
		case c.client.Waiting() || c.client.Err() != nil && !c.carrier.RequestLeft():
		case !c.client.Established():
			return "the client's ACK of our SYN-ACK, or its endpoint"
		case !c.carrier.Opens():
			return "the server's endpoint"
		}
	case phaseOpen, phaseLingering:
		return c.carrier.Waits()
	}
	return ""
}

// Waits implements carrier.
func (p *plain) Waits() string {
	switch {
	case p.parked && p.c.client.Err() == nil && p.server.Err() == nil && stack.Parked(p.c.client, p.server):
		return "a segment that ends its being parked"
	case p.c.client.Waiting() || p.server.Waiting():
		return "" // an endpoint should have been made
	case !p.c.client.Established() && p.c.client.Err() == nil:
		return "the client's endpoint"
	case p.drain.On.Load():
		return "the delivery of what came before a reset"
	case p.c.client.Err() != nil || p.server.Err() != nil:
		return ""
	case !p.server.Established():
		return "the server's endpoint"
	case p.finished():
		return ""
	}
	req, resp := p.streamWaits(replication.Request), p.streamWaits(replication.Response)
	if req == "" || resp == "" {
		return ""
	}
	return strings.TrimPrefix(req+"; "+resp, "; ")
}

// streamWaits is Waits of one direction.
func (p *plain) streamWaits(id replication.Stream) string {
	s := &p.streams[id]
	from, to := "the client's", "the server's"
	if id == replication.Response {
		from, to = to, from
	}
	switch d := s.Delivered.Load(); {
	case s.FinPassed && d <= s.End:
		return to + " ACK of the FIN"
	case s.FinPassed && p.c.flags.Protected.Load() && s.Permit.Load() <= s.End:
		return "the standby's confirmation of the FIN"
	case s.FinPassed:
		return "the other direction's end"
	case !s.dst.Confirmed():
		return to + " first segment"
	case d < s.Next:
		return to + " ACK"
	case s.Next < s.Base:
		return ""
	case p.nothingLeft(id):
		return from + " next byte"
	case p.c.flags.Paused.Load():
		return "a standby that keeps up"
	}
	return ""
}
