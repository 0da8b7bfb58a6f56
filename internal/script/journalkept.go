package script

import "lockstep/replication"

// What the journal is told of connections that outlive their servers.

// Released implements relay.Journal.
func (j *Journal) Released(id replication.ConnID, r replication.Released) {
	j.mu.Lock()
	j.note("released", j.core.Released(j.clock, id, r))
}

// Checkpoint implements relay.Journal.
func (j *Journal) Checkpoint(id replication.ConnID, off [2]uint64) {
	j.mu.Lock()
	j.note("checkpoint", j.core.Checkpoint(j.clock, id, off))
}

// ServerLeg implements relay.Journal.
func (j *Journal) ServerLeg(id replication.ConnID, leg replication.LegRecord, start [2]uint64) {
	j.mu.Lock()
	j.note("server leg", j.core.ServerLeg(j.clock, id, &leg, start))
}

// Unlog implements relay.Journal.
func (j *Journal) Unlog(id replication.ConnID) {
	j.mu.Lock()
	j.note("unlog", j.core.Unlog(j.clock, id))
}
