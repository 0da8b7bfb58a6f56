package relay

import (
	"time"

	"lockstep/replication"
)

// A standby continues the leg of which it has the record. So what another leg's server
// says goes to the client only when the standby holds that one's record: else it would go
// on with the server before, from where another one has got to, and what the client has
// would be of both (invariants 3 and 6). What a server is told before that is what the
// standby would tell one again.

// legPatience is how long a server whose turn has come may lack some of what the one
// before it has acknowledged of the request, without acknowledging any more of it.
const legPatience = time.Second

// record makes the journal know the source's leg, as soon as its server has
// acknowledged as much of the request as the standby believes delivered: the standby
// would continue the leg from there. One leg at a time is on its way to the standby, since
// LegHeld does not say which one it is.
func (c *Conn) record() {
	k := c.kept
	r := k.source
	if r == nil || r.recorded.Load() || c.protected.Load() && k.legOut.Load() {
		return
	}
	if r.acked.Load() < c.streams[replication.Request].delivered.Load() {
		c.lags(r)
		return
	}
	for _, x := range k.replicas() {
		x.recorded.Store(false)
	}
	k.server, k.start = legRecord(r.leg.Params()), r.start
	if c.protected.Load() {
		k.legOut.Store(true)
		c.r.journal.ServerLeg(c.ID, k.server, k.start)
	}
	r.recorded.Store(true)
	c.deliver(replication.Request, r.acked.Load())
	if c.wanted.Load() {
		c.r.sched.add(c, false) // a standby waits for it
	}
}

// lags waits for a source that cannot be recorded yet. If it does not get on, because it
// wants its answer to be taken first, the standby is asked to forget the connection:
// better without it than with a leg that it could not continue.
func (c *Conn) lags(r *replica) {
	if !c.protected.Load() && !c.wanted.Load() {
		return
	}
	k, now, acked := c.kept, c.r.now(), r.acked.Load()
	if k.lagging != r || acked > k.lagAcked {
		k.lagging, k.lagAcked, k.lagSince = r, acked, now
	}
	if now-k.lagSince >= legPatience {
		k.lagSince = now
		c.wanted.Store(false)
		c.r.journal.Forgo(c.ID)
	}
	c.wakeAt(k.lagSince + legPatience)
}

// mayRelease reports whether what the source says now may go to the client.
func (c *Conn) mayRelease() bool {
	k := c.kept
	return k.source == nil || !c.protected.Load() || k.source.recorded.Load() && !k.legOut.Load()
}

// LegHeld is called by the journal: the standby holds the leg that it was told of, or will
// not continue the connection.
func (c *Conn) LegHeld() {
	if c.kept != nil {
		c.kept.legOut.Store(false)
	}
	c.r.sched.add(c, false)
}
