package relay

import (
	"sync/atomic"
	"time"

	"lockstep/appliance/carry"
)

// alive is what a connection knows of its peers' being there, and of nothing going on between them.
type alive struct {
	due    atomic.Int64 // when to look again, a Duration; the janitor runs it then
	client carry.Asked
	// Of a connection that is passed on, the janitor's: questions without an answer, and when the last was.
	asked   int32
	askedAt time.Duration
	parking
}

// passAsks makes the peers' questions ours.
func (c *Conn) passAsks() {
	c.flags.Moved.Store(int64(c.r.now()))
	c.alive.due.Store(int64(c.r.now() + c.svc.Now().Keepalive.Idle))
	c.client.PassAsks()
	c.carrier.PassAsks()
}

// checkAlive passes the peers' questions on, and asks those that are silent.
func (c *Conn) checkAlive() {
	c.carrier.Pass(&c.alive.client)
	now := c.r.now()
	if c.svc.Now().Keepalive.Idle == 0 || now < time.Duration(c.alive.due.Load()) || c.carrier.Draining() {
		return
	}
	next := c.carrier.Probe(&c.svc.Now().Keepalive, c.alive.client.Probe(c.client, &c.svc.Now().Keepalive))
	c.alive.due.Store(int64(now + next))
}
