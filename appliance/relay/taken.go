package relay

import (
	"sync/atomic"
	"time"

	"lockstep/appliance/carry"
	"lockstep/replication"
	"lockstep/stack"
)

// A connection that is passed on may be ended here while it runs, if there is something to do for it: a client that
// does not read, whose server waits. It gets two legs and a plain carrier (stack.Spliced.TakeUp), which carry bytes at
// once, while what was in flight still passes; of that the journal hears nothing. When all of it has arrived the gates are
// closed, the journal is told where both streams stand, as of a connection that is adopted, and it is one that is ended
// like any other. What goes wrong before lets it be what it was.

const (
	// takeMax is for how long what was in flight may be on its way. Then it stays passed on.
	takeMax = 5 * time.Second
	// takeAgain is how long it is left alone when that has failed.
	takeAgain = time.Minute
	// stalledLooks is at how many looks of the janitor in a row a client must have been found to take nothing.
	stalledLooks = 2
)

// takingUp is how far a connection is that was passed on.
type takingUp struct {
	taken   atomic.Bool // it is ended here
	want    atomic.Bool // it is to be
	stalled int32       // looks in a row; it and at are the janitor's
	at      [2]uint32

	takingSince atomic.Int64 // Duration; 0: it is not being taken up
	notFor      atomic.Int64 // Duration: until then it is left alone
}

// takenMax is how many connections may be so at a time: each may buffer two windows.
const takenMax = 1000

// mayTake reports whether another one may be taken up, and counts it.
func (r *Relay) mayTake() bool {
	if r.taking.Add(1) <= takenMax && r.engine.Roomy() {
		return true
	}
	r.taking.Add(-1)
	return false
}

// isPassed reports whether the connection is passed on still.
func (c *Conn) isPassed() bool { return c.passed != nil && !c.taken.Load() }

// lookForStall asks for a connection whose client does not take what its server has to say.
func (c *Conn) lookForStall(now time.Duration) {
	if c.takingSince.Load() != 0 {
		c.r.sched.add(c, false) // has its time run out?
		return
	}
	if !c.svc.TakeUp {
		return
	}
	s := c.passed.ClientStall()
	if at := [2]uint32{s.Next, s.Ack}; !s.Full || at != c.at {
		c.at, c.stalled = at, 0
		if !s.Full {
			return
		}
	}
	if c.stalled++; c.stalled < stalledLooks || now < time.Duration(c.notFor.Load()) {
		return
	}
	c.want.Store(true)
	c.r.sched.add(c, false)
}

// stepTaking does what there is to do for one that is being taken up.
func (c *Conn) stepTaking() {
	since := c.takingSince.Load()
	if since == 0 {
		if c.want.Swap(false) {
			c.takeUp()
		}
		return
	}
	p := c.carrier.(*plain)
	if p.c.client.Err() != nil || p.server.Err() != nil || c.r.now()-time.Duration(since) > takeMax {
		c.letGo()
		return
	}
	drained := c.passed.Drained()
	for s := range replication.Stream(2) {
		p.trim(s)
		for p.move(s) {
		}
	}
	if drained && !c.r.journal.Congested() {
		c.takenUp(p)
	}
}

// mayTell closes the gates and reports whether the journal can be told of both streams: what a receiver has taken
// from before its endpoint, beyond where that begins, may still have to be sent and found known (stack: acknowledgeKnown).
func (p *plain) mayTell() (g carry.Gates, ok bool) {
	g, _ = p.CloseGates()
	for s := range replication.Stream(2) {
		if g.Acked[s] > p.Delivered(s) {
			return g, false
		}
	}
	return g, true
}

// takeUp begins it.
func (c *Conn) takeUp() {
	if !c.r.journal.MayTerminate() || !c.r.mayTake() {
		return
	}
	p := &plain{c: c}
	client, server, err := c.passed.TakeUp(c, serverEvents{p})
	if err != nil { // not yet: a later look asks again
		c.r.taking.Add(-1)
		return
	}
	c.client, p.server, c.carrier = client, server, p
	p.wire()
	p.streams[replication.Request].begin(client.Received())
	p.streams[replication.Response].begin(server.Received())
	c.flags.Protected.Store(false) // what the journal knows has no gates
	p.untold.Store(true)
	c.passAsks()
	c.takingSince.Store(int64(c.r.now()))
	c.begun.Store(true)
	if client.Attach() != nil || server.Attach() != nil {
		c.letGo()
	}
}

// begin starts a stream whose first byte to be carried has that offset.
func (s *stream) begin(at uint64) {
	s.Base, s.Next, s.Shipped = at, at, at
	s.Delivered.Store(at)
}

// letGo gives up taking it up.
func (c *Conn) letGo() {
	c.passed.LetGo()
	c.begun.Store(false)
	c.takingSince.Store(0)
	c.r.taking.Add(-1)
	if c.passed.Ended() != stack.NotEnded {
		return // a reset: its end is being told
	}
	c.notFor.Store(int64(c.r.now() + takeAgain))
	c.svc.takeGivenUp.Add(1)
}

// takenUp makes it a connection that is ended here.
func (c *Conn) takenUp(p *plain) {
	gates, ok := p.mayTell()
	if !ok || !c.passed.TakenUp() {
		return // a later step finds what has come of it
	}
	c.flags.Protected.Store(true)
	c.taken.Store(true) // what the journal says is for the carrier from now on
	c.svc.passed.Add(-1)
	c.svc.takenUp.Add(1)
	pic, ok := p.Picture(gates)
	if !ok {
		c.abort() // an endpoint has failed, and dropped what it had
		return
	}
	r := replication.Record{ID: c.ID, Service: c.svc.Name, Client: carry.LegRecord(c.client.Params()), Server: pic.Server}
	err := c.r.journal.Terminate(r, pic.Pos)
	p.untold.Store(false)
	if err != nil {
		c.Unprotect() // nobody keeps it
	} else {
		p.Adopted(&pic)
		c.tellDelivered() // what was delivered meanwhile
	}
	c.r.sched.add(c, false)
}
