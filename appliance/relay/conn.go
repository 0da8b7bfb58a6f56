package relay

import (
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"lockstep/appliance/pool"
	"lockstep/replication"
	"lockstep/stack"
)

// phase of a connection; it only moves forward.
type phase uint8

const (
	phaseDialing   phase = iota // the client's SYN waits for the server
	phaseOpening                // the record is on its way to safety
	phaseAccepting              // the SYN-ACK left; the client's ACK is awaited
	phaseOpen
	phaseLingering // over for the client; replicas of its server go on, see kept.go
	phaseDone
)

// Conn is one client's connection. A worker owns all but the atomic fields while
// it runs step; events only set atomics and schedule it.
type Conn struct {
	ID  replication.ConnID
	svc *Service
	r   *Relay

	client, server *stack.Leg
	phase          phase
	tried          []int // servers that have refused it, or not answered
	serverIdx      int
	born           time.Duration
	stepAt         atomic.Int64 // Duration of the last step: activity
	movedAt        atomic.Int64 // Duration of when bytes last came or were acknowledged
	restored       bool
	unproven       bool // the client has not shown yet that it is there, see prove

	streams [2]stream // indexed by replication.Stream

	kept     *kept    // nil: its server's end is its end (protection gateway)
	first    *replica // of a connection to be kept: the leg that is being dialled
	unlogged atomic.Bool
	gauge    gauge // of a kept connection
	lingerTo time.Duration

	stuck bool // it waited for nothing when it was last looked at
	alive alive
	drain draining // one leg has ended, what it has sent goes to the other first

	opened    atomic.Bool // the journal holds the record
	protected atomic.Bool
	schedule  atomic.Uint32
	bulk      atomic.Bool // waits in the bulk queue
	killed    atomic.Uint32
	rebuild   atomic.Pointer[rebuilding] // set while a takeover's endpoints are due
	paused    atomic.Bool                // the journal was congested; the next permit resumes
	wanted    atomic.Bool                // the journal has asked for it, see adopt.go
}

// Wake implements stack.Events.
func (c *Conn) Wake(*stack.Leg) {
	if c.bulk.CompareAndSwap(true, false) {
		c.r.sched.hasten(c) // a peer speaks: its legs are wanted now
		return
	}
	c.r.sched.add(c, false)
}

// kill asks the worker to reset the connection. Only the worker may end legs:
// it may be reading from their receive queues.
func (c *Conn) kill(silent bool) {
	if silent {
		c.killed.Store(killSilent)
	} else {
		c.killed.CompareAndSwap(killNot, killReset)
	}
	c.r.sched.add(c, false)
}

// Values of Conn.killed.
const (
	killNot uint32 = iota
	killReset
	killSilent // without a word to the peers
)

// Delivered implements stack.Events.
func (c *Conn) Delivered(l *stack.Leg, off uint64) {
	s := replication.Response
	if l != c.client {
		s = replication.Request
	}
	c.deliver(s, off)
	c.r.sched.add(c, false)
}

// raise sets v to off unless it is higher already: news of one leg can come from
// two goroutines, out of order.
func raise(v *atomic.Uint64, off uint64) {
	for old := v.Load(); off > old; old = v.Load() {
		if v.CompareAndSwap(old, off) {
			return
		}
	}
}

// Opened is called by the journal when the record is safe.
func (c *Conn) Opened() {
	c.opened.Store(true)
	c.r.sched.add(c, false)
}

// Unprotect is called by the journal when this connection is no longer kept
// elsewhere: nothing is waited for any more.
func (c *Conn) Unprotect() {
	c.protected.Store(false)
	if c.client != nil {
		c.client.Open()
	}
	if c.kept != nil {
		for _, r := range c.kept.replicas() {
			r.leg.Open()
		}
	} else if c.server != nil {
		c.server.Open()
	}
	c.r.sched.add(c, false)
}

// Permit is called by the journal: ACKs to the sender of s may cover off.
func (c *Conn) Permit(s replication.Stream, off uint64) {
	st := &c.streams[s]
	if c.kept != nil && s == replication.Response {
		c.kept.permit(off)
	} else if st.src != nil {
		st.src.Permit(off) // before the worker may see that this was the last
	}
	st.permit.Store(off)
	if c.kept != nil && s == replication.Response {
		c.kept.permit(off) // a leg that was added meanwhile has seen one or the other
	}
	if off >= st.delivered.Load() || c.paused.Swap(false) {
		c.r.sched.add(c, false)
	}
}

// Need is called by the journal: it wants the response bytes [from, to).
func (c *Conn) Need(s replication.Stream, from, to uint64) {
	c.streams[s].needFrom.Store(from)
	c.streams[s].needTo.Store(to)
	c.r.sched.add(c, false)
}

// step does whatever there is to do. again asks for another turn.
func (c *Conn) step() (again bool) {
	if k := c.killed.Load(); k != killNot && c.phase != phaseDone {
		if k == killSilent {
			c.client.Drop()
			if c.kept != nil {
				c.dropKept()
			} else if c.server != nil {
				c.server.Drop()
			}
		}
		c.abort()
		return false
	}
	c.stepAt.Store(int64(c.r.now()))
	if c.wanted.Swap(false) {
		c.adopt()
	}
	switch c.phase {
	case phaseDialing:
		c.stepDialing()
	case phaseOpening:
		if c.client.Err() == nil && c.kept == nil && c.server.Err() != nil && c.nothingLeft(replication.Response) {
			c.giveUp(c.server.Err())
			return false
		}
		if c.failed() {
			return false
		}
		if c.opened.Load() {
			c.phase = phaseAccepting
			c.client.Accept()
			if !c.unproven {
				c.stepAccepting() // the client has shown already that it is there
			}
		}
	case phaseAccepting:
		c.stepAccepting()
	case phaseOpen:
		c.checkAlive()
		if c.kept != nil {
			return c.stepKept()
		}
		return c.stepOpen()
	case phaseLingering:
		c.linger()
		return false
	}
	return c.phase == phaseOpen && c.client.Established()
}

func (c *Conn) stepDialing() {
	if c.client.Err() != nil {
		c.abort()
		return
	}
	if c.server != nil {
		if c.server.Established() {
			c.svc.Pool.Accepted(c.serverIdx)
			c.open()
			return
		}
		err := c.server.Err()
		if err == nil {
			return
		}
		c.svc.Pool.Refused(c.serverIdx)
		c.server.Drop()
		c.server = nil
		c.tried = append(c.tried, c.serverIdx)
		c.dial(err)
		return
	}
	c.serverIdx = -1
	c.dial(stack.ErrUnreachable)
}

// giveUp tells the client what it would learn without the gateway.
func (c *Conn) giveUp(err error) {
	if c.unproven && (errors.Is(err, stack.ErrRefused) || errors.Is(err, stack.ErrReset)) {
		c.client.Refuse()
	}
	// Unreachable or silent: the client's SYN goes unanswered; it is reset if it has had
	// its answer already.
	c.abort()
}

// dial asks the next server; err is what the client is told if there is none.
func (c *Conn) dial(err error) {
	tried := func(i int) bool { return slices.Contains(c.tried, i) }
	for {
		i, ok := c.svc.Pool.Next(pool.Want{Client: c.client.Params().Remote, After: c.serverIdx, Not: tried, Any: true})
		if !ok {
			c.giveUp(err)
			return
		}
		c.serverIdx = i
		var l *stack.Leg
		if l, err = c.dialFirst(i); err == nil {
			c.server = l
			return
		}
		c.tried = append(c.tried, i)
	}
}

// open hands the record to the journal and wires the streams.
func (c *Conn) open() {
	c.phase = phaseOpening
	c.wire()
	if c.first != nil {
		c.keep()
	}
	c.r.journal.Open(c, replication.Record{
		ID: c.ID, Service: c.svc.Name, Logged: c.kept != nil,
		Client: legRecord(c.client.Params()), Server: legRecord(c.server.Params()),
	})
	c.step()
}

// dialFirst dials the connection's first server.
func (c *Conn) dialFirst(i int) (*stack.Leg, error) {
	if !c.svc.Kept {
		return c.r.dialServer(c, i, c)
	}
	c.first = &replica{c: c, server: i}
	l, err := c.r.dialServer(c, i, c.first)
	c.first.leg = l
	return l, err
}

func (c *Conn) wire() {
	req, resp := &c.streams[replication.Request], &c.streams[replication.Response]
	req.src, req.dst = c.client, c.server
	resp.src, resp.dst = c.server, c.client
	if c.kept != nil {
		c.client.Lone()
	} else {
		stack.Join(c.client, c.server)
	}
}

func (c *Conn) stepAccepting() {
	if c.failed() {
		return
	}
	c.prove()
	c.attach()
	if c.client.Established() && (c.kept != nil || c.server.Established()) {
		c.phase = phaseOpen
		c.passAsks()
	}
}

// prove lets the servers complete their handshakes once the client has completed its
// own: no server hears of a client that is not there.
func (c *Conn) prove() {
	if !c.unproven || !c.client.Confirmed() {
		return
	}
	c.unproven = false
	if c.kept != nil {
		for _, r := range c.kept.replicas() {
			r.leg.Complete()
		}
	} else if c.server != nil {
		c.server.Complete()
	}
}

// attach builds endpoints for legs whose peers are established.
func (c *Conn) attach() {
	for _, l := range [2]*stack.Leg{c.client, c.server} {
		if l.Waiting() {
			if err := l.Attach(); err != nil {
				c.abort()
				return
			}
		}
	}
}

// failed ends a connection in its handshake if a leg has ended that it cannot do
// without. What that one has said before its RST is for the other: then it goes on.
func (c *Conn) failed() bool {
	cerr, serr := c.client.Err(), error(nil)
	if c.kept == nil {
		serr = c.server.Err()
	}
	switch {
	case cerr == nil && serr == nil:
		return false
	case cerr == nil && !c.nothingLeft(replication.Response):
		c.secure(replication.Response)
		return false
	case serr == nil && !c.nothingLeft(replication.Request):
		return false
	}
	c.abort()
	return true
}

// recorded: the journal has been told of it.
func (c *Conn) recorded() bool { return c.phase >= phaseOpening && c.phase < phaseLingering }

// abort resets whoever is still there. A reset or a silent death of one side
// reaches the other as a reset.
func (c *Conn) abort() {
	if c.phase == phaseDone {
		return
	}
	recorded := c.recorded()
	c.phase = phaseDone
	if c.client.Err() == nil {
		c.client.Abort()
	} else {
		c.client.Drop()
	}
	if c.kept != nil {
		c.abortKept()
	} else if c.server != nil {
		if c.server.Err() == nil {
			c.server.Abort()
		} else {
			c.server.Drop()
		}
	}
	if recorded {
		c.r.journal.Close(c.ID, replication.Aborted)
	}
	c.r.ended(c, true)
}

func (c *Conn) stepOpen() (again bool) {
	if c.client.Waiting() || c.server.Waiting() {
		c.attach() // a takeover: endpoints come as they are needed
	}
	c.prove()
	if c.rebuild.Load() != nil && c.client.Established() && c.server.Established() {
		c.rebuilt()
	}
	if c.client.Err() != nil || c.server.Err() != nil {
		return c.stepDraining()
	}
	for i := range c.streams {
		s := replication.Stream(i)
		c.trim(s)
		c.ship(s)
		if c.move(s) {
			again = true
		}
	}
	if c.finished() {
		c.finish()
		return false
	}
	return again
}

func (c *Conn) finished() bool {
	for i := range c.streams {
		s := &c.streams[i]
		if !s.finPassed || s.delivered.Load() <= s.end {
			return false
		}
		if c.protected.Load() && s.permit.Load() <= s.end {
			return false // the sender's FIN is not acknowledged yet
		}
	}
	return true
}

// finish ends a connection whose both FINs are acknowledged, by their receivers
// and to their senders.
func (c *Conn) finish() {
	c.phase = phaseDone
	// The packet path may not have come to telling the journal yet.
	c.tellDelivered()
	c.r.journal.Close(c.ID, replication.Finished)
	c.client.Finish()
	c.server.Finish()
	c.r.ended(c, false)
}
