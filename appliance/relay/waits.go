package relay

import (
	"fmt"
	"strings"
	"time"

	"lockstep/replication"
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
		if !c.schedule.CompareAndSwap(schedIdle, schedRunning) {
			return
		}
		if c.phase != phaseDone && c.waitsFor() == "" {
			all = append(all, c.text())
		}
		c.r.sched.leave(c, false)
	})
	return all
}

// waitsFor says what a connection waits for that nobody runs; empty if for nothing. Only
// who has it may call it.
func (c *Conn) waitsFor() string {
	if c.rebuild.Load() != nil && c.bulk.Load() {
		return "its turn to be rebuilt"
	}
	switch c.phase {
	case phaseDialing:
		if c.server != nil && c.server.Err() == nil && !c.server.Established() && c.client.Err() == nil {
			return "a server's answer to our SYN"
		}
	case phaseOpening:
		if !c.opened.Load() {
			return "the standby's confirmation of its record"
		}
	case phaseAccepting:
		switch {
		case c.client.Waiting() || c.client.Err() != nil && c.nothingLeft(replication.Request):
		case !c.client.Established():
			return "the client's ACK of our SYN-ACK, or its endpoint"
		case c.kept == nil && !c.server.Established():
			return "the server's endpoint"
		}
	case phaseOpen:
		return c.openWaits()
	case phaseLingering:
		if until := c.lingerTo - c.r.now(); until > 0 {
			return fmt.Sprintf("the end of other servers, for %v", until.Round(time.Second))
		}
	}
	return ""
}

func (c *Conn) openWaits() string {
	switch {
	case c.client.Waiting() || c.kept == nil && c.server.Waiting():
		return "" // an endpoint should have been made
	case !c.client.Established() && c.client.Err() == nil:
		return "the client's endpoint"
	case c.drain.on.Load():
		return "the delivery of what came before a reset"
	case c.kept != nil:
		return c.keptWaits()
	case c.client.Err() != nil || c.server.Err() != nil:
		return ""
	case !c.server.Established():
		return "the server's endpoint"
	case c.finished():
		return ""
	}
	req, resp := c.streamWaits(replication.Request), c.streamWaits(replication.Response)
	if req == "" || resp == "" {
		return ""
	}
	return strings.TrimPrefix(req+"; "+resp, "; ")
}

// streamWaits is waitsFor of one direction of a connection without kept.
func (c *Conn) streamWaits(id replication.Stream) string {
	s := &c.streams[id]
	from, to := "the client's", "the server's"
	if id == replication.Response {
		from, to = to, from
	}
	switch d := s.delivered.Load(); {
	case s.finPassed && d <= s.end:
		return to + " ACK of the FIN"
	case s.finPassed && c.protected.Load() && s.permit.Load() <= s.end:
		return "the standby's confirmation of the FIN"
	case s.finPassed:
		return "the other direction's end"
	case !s.dst.Confirmed():
		return to + " first segment"
	case d < s.next:
		return to + " ACK"
	case s.next < s.base:
		return ""
	case c.nothingLeft(id):
		return from + " next byte"
	case c.paused.Load():
		return "a standby that keeps up"
	}
	return ""
}

// keptWaits is openWaits of a kept connection.
func (c *Conn) keptWaits() string {
	k := c.kept
	req, resp := &c.streams[replication.Request], &c.streams[replication.Response]
	switch {
	case c.client.Err() != nil || c.finishedKept():
		return ""
	case !c.nothingLeft(replication.Request) && c.requestRoom() > 0 && !c.paused.Load():
		return ""
	case k.wakeDue > c.r.now():
		return fmt.Sprintf("a timer, in %v", (k.wakeDue - c.r.now()).Round(time.Millisecond))
	case resp.delivered.Load() < resp.next || resp.finPassed && resp.delivered.Load() <= resp.end:
		return "the client's ACK"
	case resp.finPassed && k.source == nil && !req.finPassed:
		return "the client's end"
	case resp.finPassed && k.source == nil && c.protected.Load() && req.permit.Load() <= req.end:
		return "the standby's confirmation of the FIN"
	case k.source == nil:
		return ""
	case !c.mayRelease() && k.legOut.Load():
		return "the standby's confirmation of its server's leg"
	case k.source.leg.Err() != nil && (k.claim.answer == nil || k.claim.answer.Load() != claimAsked):
		return ""
	case k.source.leg.Waiting() || resp.next < k.seen.end && c.peeks():
		return ""
	case k.claim.answer != nil && k.claim.answer.Load() == claimAsked:
		return "what a probe of the server says"
	case !resp.finPassed:
		return "the server's next byte"
	case k.source.acked.Load() < k.log.end || req.finPassed && k.source.acked.Load() <= req.end:
		return "the server's ACK"
	case !req.finPassed:
		return "the client's next byte"
	case c.protected.Load():
		return "the standby's confirmation"
	}
	return ""
}

// peeks reports whether there are bytes for the client.
func (c *Conn) peeks() bool {
	_, n, _ := c.peekResponse(c.kept.source, nil)
	return n > 0
}
