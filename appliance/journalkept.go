package appliance

import "lockstep/replication"

// What the journal is told of connections that outlive their servers.

// Released implements relay.Journal.
func (j *journal) Released(id replication.ConnID, r replication.Released) {
	j.mu.Lock()
	_ = j.core.Released(j.now(), id, r)
	flushable := j.core.Flushable()
	j.mu.Unlock()
	if flushable {
		// At once, not by the sender's goroutine: the bytes leave next, and the standby
		// should have their digest even if this process dies then.
		j.flush()
	}
}

// Checkpoint implements relay.Journal.
func (j *journal) Checkpoint(id replication.ConnID, off [2]uint64) {
	j.tell(func(c *replication.Core, now replication.Nanos) error { return c.Checkpoint(now, id, off) })
}

// ServerLeg implements relay.Journal.
func (j *journal) ServerLeg(id replication.ConnID, leg replication.LegRecord, start [2]uint64) {
	j.tell(func(c *replication.Core, now replication.Nanos) error { return c.ServerLeg(now, id, &leg, start) })
}

// Unlog implements relay.Journal.
func (j *journal) Unlog(id replication.ConnID) {
	j.tell(func(c *replication.Core, now replication.Nanos) error { return c.Unlog(now, id) })
}

// tell gives the core news of a connection; what it refuses it counts.
func (j *journal) tell(f func(*replication.Core, replication.Nanos) error) {
	j.mu.Lock()
	_ = f(j.core, j.now())
	flushable := j.core.Flushable()
	j.mu.Unlock()
	if flushable {
		nudge(j.kicked)
	}
}
