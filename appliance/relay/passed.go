package relay

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"lockstep/appliance/carry"
	"lockstep/appliance/pool"
	"lockstep/replication"
	"lockstep/stack"
)

// A connection that is passed on (stack.Spliced) needs a worker only at its beginning and its end: to choose a
// server, to hand the record to the journal, to let the SYN-ACK pass when the standby has it, and to say that
// it is over. Its bytes never come here. It is a Conn like any other to the journal, the limits and the
// takeover, which puts its two flows into the table and is done.

// askedMax is how often a client may repeat its SYN, after 1, 3 and 7 s, before another server is tried.
const askedMax = 2

// silentLeast is how long a server is waited for however often the client repeats its SYN: who has it come in
// one burst says nothing of the server.
const silentLeast = time.Second

// passage is what a connection has if it is passed on.
type passage struct {
	passed *stack.Spliced // nil: it is ended here. Otherwise it has no client's leg and no carrier
	place  int32          // in Relay.list; Relay.mu
	over   atomic.Bool    // passed has ended by itself
	// dialledAt is when the present server got the client's SYN.
	dialledAt time.Duration
	unheard   atomic.Bool // after a takeover: its server was asked whether it knows it
	takingUp
}

var (
	_ stack.Passer        = (*Relay)(nil)
	_ stack.SplicedEvents = (*Conn)(nil)
)

// passes reports whether a client's new connection is passed on: if nothing of it has to be kept, a standby would
// continue it, and the server whose turn it is has an address of the client's family.
func (r *Relay) passes(s *Service, client netip.AddrPort) bool {
	if !s.Pass || s.Kept || !r.journal.MaySplice() {
		return false
	}
	i, ok := s.Pool.Next(pool.Want{Client: client, After: -1, Any: true})
	return !ok || s.sameFamily(i, client)
}

func (s *Service) sameFamily(i int, client netip.AddrPort) bool {
	return s.Pool.Addr(i).Addr().Is4() == client.Addr().Is4()
}

// Passing implements stack.Passer.
func (r *Relay) Passing(p *stack.Spliced) {
	c := &Conn{r: r, passage: passage{passed: p}, born: r.now(), choosing: choosing{serverIdx: -1}}
	p.SetEvents(c)
	switch ok, over := r.admit(c); {
	case ok:
		c.svc.passed.Add(1)
		r.sched.add(c, false)
	case over:
		p.Deny()
	default:
		p.Drop()
	}
}

// Turned implements stack.SplicedEvents.
func (c *Conn) Turned() { c.r.sched.add(c, false) }

// Revived implements stack.SplicedEvents: what seemed to have ended goes on. The journal knows it as another
// connection, which is protected as soon as the standby has its record.
func (c *Conn) Revived() {
	if !c.over.Load() {
		return // the worker has not come to it: nothing has ended yet
	}
	again := &Conn{r: c.r, passage: passage{passed: c.passed}, born: c.r.now(), choosing: choosing{serverIdx: c.serverIdx}}
	again.schedule.Store(schedRunning) // from when it is in the table others look at it, see Views
	if ok, _ := c.r.admit(again); !ok {
		return // it is passed on as long as its tombstone lasts
	}
	again.servedBy(c.passed.Addrs().Server)
	c.svc.passed.Add(1)
	c.passed.SetEvents(again)
	c.passed.Revive()
	c.r.sched.leave(again, true)
}

// stepPassed is step of a connection that is passed on.
func (c *Conn) stepPassed() {
	if c.phase == phaseDone {
		return
	}
	if k := c.killed.Load(); k != killNot {
		if k == killSilent {
			c.passed.Drop()
		}
		c.abortPassed()
		return
	}
	c.stepAt.Store(int64(c.r.now()))
	if c.wanted.Swap(false) {
		c.adopt()
	}
	if how := c.passed.Ended(); how != stack.NotEnded {
		c.passedEnded(how)
		return
	}
	if c.phase == phaseDialing {
		c.passDialing()
	}
	if c.phase == phaseOpening && c.flags.Opened.Load() {
		c.phase = phaseAccepting
		c.passed.Accept()
	}
	if c.phase == phaseAccepting && c.passed.Opened() {
		c.phase = phaseOpen
	}
	if c.phase == phaseOpen {
		c.stepTaking()
	}
}

// passDialing sees to it that some server answers.
func (c *Conn) passDialing() {
	p := c.passed
	switch {
	case p.Answered():
		if c.serverIdx >= 0 {
			c.svc.Pool.Accepted(int(c.serverIdx))
		}
		c.phase = phaseOpening
		c.r.journal.Open(c, c.passedRecord())
		return
	case c.serverIdx >= 0 && p.Refused():
		c.svc.Pool.Refused(int(c.serverIdx))
	case c.serverIdx >= 0 && (p.Asked() < askedMax || c.r.now()-c.dialledAt < silentLeast):
		return
	}
	silent, was := c.serverIdx >= 0 && !p.Refused(), int(c.serverIdx)
	for {
		if c.serverIdx >= 0 {
			c.tried = &triedServer{int(c.serverIdx), c.tried}
		}
		i, ok := c.nextServer()
		if !ok {
			break
		}
		if silent {
			c.svc.Pool.Refused(was) // it is left, now that there is another
			silent = false
		}
		c.serverIdx, c.dialledAt = int32(i), c.r.now()
		if c.r.dialFrom(c, i, p.Dial) == nil {
			return
		}
	}
	if silent {
		c.tried = c.tried.before
		return // there is no other: the client asks it as long as it likes
	}
	c.phase = phaseDone
	p.Refuse()
	c.r.ended(c, true)
}

// passedRecord is what a standby must know.
func (c *Conn) passedRecord() replication.Record {
	client, server := c.passed.Params()
	return replication.Record{
		ID: c.ID, Service: c.svc.Name, Spliced: true, Client: carry.LegRecord(client), Server: carry.LegRecord(server),
	}
}

// adoptPassed answers a standby that has joined.
func (c *Conn) adoptPassed() {
	c.flags.Protected.Store(c.takingSince.Load() == 0) // its gates are not the journal's yet
	if c.r.journal.Adopt(c, c.passedRecord(), [2]replication.StreamPos{}, nil) != nil {
		c.Unprotect() // counted by the journal
	}
}

// passedEnded does what is left of a connection that has ended by itself.
func (c *Conn) passedEnded(how stack.SplicedEnd) {
	recorded := c.recorded()
	c.phase = phaseDone
	c.over.Store(true)
	kind := replication.Aborted
	switch how {
	case stack.EndedInOrder:
		kind = replication.Finished
		c.passed.Finish()
	case stack.EndedByReset:
		c.passed.Finish()
	case stack.EndedUnproven:
		c.passed.HangUp()
	}
	if recorded {
		c.r.journal.Close(c.ID, kind)
	}
	c.r.ended(c, kind == replication.Aborted)
}

// abortPassed resets both ends.
func (c *Conn) abortPassed() {
	recorded := c.recorded()
	c.phase = phaseDone
	c.passed.Abort()
	if recorded {
		c.r.journal.Close(c.ID, replication.Aborted)
	}
	c.r.ended(c, true)
}

// tendPassed is what the janitor does for one: limits of time, and questions to ends that are silent. calm: there is
// nothing to look for in the next seconds, whatever may come.
func (c *Conn) tendPassed(now time.Duration) (calm bool) {
	opened := c.flags.Opened.Load()
	t := c.passed.Tend(opened)
	if t.Gone && c.passed.Ended() == stack.NotEnded {
		if c.vanished() {
			c.kill(false)
		}
		return false
	}
	if opened {
		c.lookForStall(now)
	}
	here := now - c.born
	c.askUnheard(here)
	idle, silent := min(t.Idle, here), min(t.Silent, here)
	k := &c.svc.Now().Keepalive
	if !t.Owed {
		c.alive.asked = 0
	}
	switch {
	case c.svc.Now().Idle > 0 && idle > c.svc.Now().Idle, !opened && here > dialMax:
		c.kill(false)
	case k.Idle == 0 || silent < k.Idle, !opened:
		return opened && !t.Doubt && idle >= calmFor && c.stalled == 0 && c.takingSince.Load() == 0 && (k.Idle == 0 || silent+calmFor < k.Idle) && (c.svc.Now().Idle == 0 || idle+calmFor < c.svc.Now().Idle)
	case c.alive.asked > 0 && now-c.alive.askedAt < k.Interval:
	case int(c.alive.asked) >= k.Count:
		c.kill(false)
	default:
		c.alive.asked++
		c.alive.askedAt = now
		c.passed.Ask(k.Idle)
	}
	return false
}

// unheardSpread is over how long the questions of a takeover are spread: there may be very many.
const unheardSpread = 60

// askUnheard asks the server once of a connection that is continued and whose client never speaks. It may not have
// completed its handshake: then the server has given it up by now.
func (c *Conn) askUnheard(here time.Duration) {
	if c.restored && here > dialMax+time.Duration(c.ID%unheardSpread)*time.Second && !c.unheard.Swap(true) {
		c.passed.AskServer()
	}
}

// vanished reports whether it has been taken for a tombstone just when it went on, and has left the table:
// nothing comes of it any more. (One that is being taken up leaves the table to its legs.)
func (c *Conn) vanished() bool {
	return c.passed.Gone() && c.passed.Ended() == stack.NotEnded && c.takingSince.Load() == 0
}

// passedWaitsFor is waitsFor.
func (c *Conn) passedWaitsFor() string {
	if c.passed.Ended() != stack.NotEnded || c.vanished() {
		return ""
	}
	switch c.phase {
	case phaseDialing:
		if c.serverIdx >= 0 && !c.passed.Answered() && !c.passed.Refused() {
			return "a server's answer to the client's SYN"
		}
	case phaseOpening:
		if !c.flags.Opened.Load() {
			return "the standby's confirmation of its record"
		}
	case phaseAccepting:
		if !c.passed.Opened() {
			return "the client's ACK of the SYN-ACK"
		}
	case phaseOpen:
		return "its two ends"
	}
	return ""
}

func (c *Conn) passedText() string {
	return fmt.Sprintf("conn %d waits_for=%q phase=%d last_step=%v_ago passed{%v}",
		c.ID, c.passedWaitsFor(), c.phase, c.r.ago(time.Duration(c.stepAt.Load())), c.passed)
}

// buried listens to a tombstone of another appliance's.
type buried struct{}

func (buried) Turned()  {}
func (buried) Revived() {}

// restorePassed continues a connection that is passed on.
func (r *Relay) restorePassed(svc *Service, k *replication.Continue) (*Conn, error) {
	cp, sp := carry.LegParams(k.Record.Client), carry.LegParams(k.Record.Server)
	c := &Conn{ID: k.Record.ID, svc: svc, r: r, standing: standing{phase: phaseOpen}, born: r.now(), choosing: choosing{serverIdx: -1}}
	c.flags.Opened.Store(true)
	c.restored = true
	c.stepAt.Store(int64(r.now()))
	var err error
	var ev stack.SplicedEvents = c
	if k.Finished {
		ev = buried{} // it counts as none, whatever comes of it
	}
	if c.passed, err = r.engine.RestoreSpliced(cp, sp, k.Finished, ev); err != nil && !k.Finished {
		if newer := r.supersede(c, cp); newer {
			return nil, nil
		}
		c.passed, err = r.engine.RestoreSpliced(cp, sp, false, c)
	}
	switch {
	case k.Finished:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("continue %s: %w", cp.Remote, err)
	}
	c.servedBy(sp.Remote)
	r.keep(c)
	svc.passed.Add(1)
	return c, nil
}
