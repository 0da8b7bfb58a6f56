package script

import (
	"fmt"

	"lockstep/appliance/relay"
	"lockstep/replication"
	"lockstep/replication/wire"
)

// What the relay tells the journal. What the core refuses is a violation.

// note reports what the core refused.
func (j *Journal) note(what string, err error) {
	if err != nil && !j.isCut() {
		j.violate("%s: %v", what, err)
	}
	j.calls.Add(1)
}

// Open implements relay.Journal.
func (j *Journal) Open(c *relay.Conn, r replication.Record) {
	c.Protect()
	j.mu.Lock()
	j.legsOf(&r, j.standby == nil, nil)
	j.mu.Unlock()
	j.note("open", j.active.Open(j.now(), &r))
}

// Data implements relay.Journal.
func (j *Journal) Data(id replication.ConnID, s replication.Stream, off uint64, bufs [][]byte, fin bool) {
	j.note("data", j.active.Data(j.now(), id, s, off, bufs, fin))
}

// Received implements relay.Journal.
func (j *Journal) Received(id replication.ConnID, s replication.Stream, off uint64, fin bool) {
	j.note(fmt.Sprintf("received %d", off), j.active.Received(j.now(), id, s, off, fin))
}

// Delivered implements relay.Journal.
func (j *Journal) Delivered(id replication.ConnID, s replication.Stream, off uint64) {
	err := j.active.Delivered(j.now(), id, s, off)
	j.mu.Lock()
	if _, gone := j.ended[id]; gone || !j.keepBytes {
		err = nil // the packet path may be late
	}
	j.mu.Unlock()
	j.note(fmt.Sprintf("delivered %d", off), err)
}

// Close implements relay.Journal.
func (j *Journal) Close(id replication.ConnID, k replication.CloseKind) {
	j.mu.Lock()
	if j.keepBytes {
		j.ended[id] = k
	}
	j.mu.Unlock()
	j.note("close", j.active.Close(j.now(), id, k))
}

// Congested implements relay.Journal.
func (j *Journal) Congested() bool { return j.active.Congested() }

// Released implements relay.Journal.
func (j *Journal) Released(id replication.ConnID, r replication.Released) {
	j.mu.Lock()
	j.past.released[id] = max(j.past.released[id], r.End)
	j.mu.Unlock()
	j.note("released", j.active.Released(j.now(), id, r))
}

// Checkpoint implements relay.Journal.
func (j *Journal) Checkpoint(id replication.ConnID, off [2]uint64) {
	j.note("checkpoint", j.active.Checkpoint(j.now(), id, off))
}

// ServerLeg implements relay.Journal.
func (j *Journal) ServerLeg(id replication.ConnID, leg replication.LegRecord, start [2]uint64) {
	j.mu.Lock()
	j.laterLeg(id, &leg, start[replication.Response])
	j.mu.Unlock()
	j.note("server leg", j.active.ServerLeg(j.now(), id, &leg, start))
}

// Forgo implements relay.Journal.
func (j *Journal) Forgo(id replication.ConnID) { j.note("forgo", j.active.Forgo(j.now(), id)) }

// Unlog implements relay.Journal.
func (j *Journal) Unlog(id replication.ConnID) { j.note("unlog", j.active.Unlog(j.now(), id)) }

// effects implements shell.Effects on the relay's connections, until the link is cut.
type effects struct{ j *Journal }

func (e effects) on(id replication.ConnID, f func(*relay.Conn)) {
	if e.j.isCut() {
		return
	}
	e.j.calls.Add(1)
	if c := e.j.relay.Lookup(id); c != nil {
		f(c)
	}
}

func (e effects) Unprotect(id replication.ConnID) {
	e.j.mu.Lock()
	if e.j.keepBytes {
		e.j.ended[id] = wire.Unprotected
	}
	e.j.mu.Unlock()
	e.on(id, (*relay.Conn).Unprotect)
}

func (e effects) Unlogged(id replication.ConnID) { e.on(id, (*relay.Conn).Unlogged) }
func (e effects) Opened(id replication.ConnID)   { e.on(id, (*relay.Conn).Opened) }
func (e effects) Decided(replication.Held)       {} // no server asks
func (e effects) LegHeld(id replication.ConnID)  { e.on(id, (*relay.Conn).LegHeld) }
func (e effects) Adopt(id replication.ConnID)    { e.on(id, (*relay.Conn).Adopt) }

func (e effects) Permit(p replication.Permit) {
	e.on(p.ID, func(c *relay.Conn) { c.Permit(p.Stream, p.Off) })
}

func (e effects) Need(n replication.Range) {
	e.on(n.ID, func(c *relay.Conn) { c.Need(n.Stream, n.From, n.To) })
}
