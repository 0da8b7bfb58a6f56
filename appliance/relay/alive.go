package relay

import (
	"sync/atomic"
	"time"

	"lockstep/stack"
)

// Keepalive says when a peer that is silent is asked whether it is there: after Idle,
// then every Interval; after Count questions without an answer it is dead. Idle 0: never.
type Keepalive struct {
	Idle, Interval time.Duration
	Count          int
}

// alive is what a connection knows of its peers' being there.
type alive struct {
	due    atomic.Int64 // when to look again, a Duration; the janitor runs it then
	client askedLeg
	server askedLeg // without kept
}

// askedLeg is one leg in this.
type askedLeg struct {
	owed   bool // its peer has asked, and is answered when the other one has
	probes int  // of our own without an answer
}

// passAsks makes the peers' questions ours.
func (c *Conn) passAsks() {
	c.movedAt.Store(int64(c.r.now()))
	c.alive.due.Store(int64(c.r.now() + c.svc.Keepalive.Idle))
	c.client.PassAsks()
	if c.kept == nil {
		c.server.PassAsks()
		return
	}
	for _, r := range c.kept.replicas() {
		r.leg.PassAsks()
	}
}

// checkAlive passes the peers' questions on, and asks those that are silent.
func (c *Conn) checkAlive() {
	k := c.kept
	if k == nil {
		c.pass(c.client, &c.alive.client, c.server)
		c.pass(c.server, &c.alive.server, c.client)
	} else {
		var source *stack.Leg
		if k.source != nil {
			source = k.source.leg
		}
		c.pass(c.client, &c.alive.client, source)
		for _, r := range k.replicas() {
			c.pass(r.leg, &r.alive, c.client)
		}
	}
	now := c.r.now()
	if c.svc.Keepalive.Idle == 0 || now < time.Duration(c.alive.due.Load()) || c.drain.on.Load() {
		return
	}
	next := c.probe(c.client, &c.alive.client)
	if k == nil {
		next = min(next, c.probe(c.server, &c.alive.server))
	} else {
		for _, r := range k.replicas() {
			next = min(next, c.probe(r.leg, &r.alive))
		}
	}
	c.alive.due.Store(int64(now + next))
}

// pass asks the other leg's peer if l's peer has asked, and answers when that has. If
// there is nobody to ask, the gateway answers for itself: a connection that waits for
// another server is alive.
func (c *Conn) pass(l *stack.Leg, a *askedLeg, other *stack.Leg) {
	if l.Asked() {
		a.owed = other != nil && other.Err() == nil && other.Probe()
		if !a.owed {
			l.Answer()
		}
	}
	if a.owed && (other == nil || !other.Awaited()) {
		a.owed = false
		l.Answer()
	}
}

// probe asks l's peer if it is time for that, gives it up if it was asked often enough,
// and says when to look again.
func (c *Conn) probe(l *stack.Leg, a *askedLeg) time.Duration {
	k := &c.svc.Keepalive
	if !l.Awaited() {
		a.probes = 0
	}
	switch silent := l.Silent(); {
	case silent < k.Idle:
		return k.Idle - silent
	case a.probes >= k.Count:
		l.Fail()
	case l.Probe():
		a.probes++
	}
	return k.Interval
}
