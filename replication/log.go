package replication

import (
	"slices"

	"lockstep/replication/wire"
)

// A logged connection outlives its server: the request is kept from its last
// checkpoint on, beyond what the server has acknowledged, and digests of what the
// client was sent of the response. Another server gets the request replayed, and its
// output is verified against the digests (invariant 6). Who replays and hashes is not
// known here. The standby keeps the same log, so that it can do so after a takeover.
//
// The response is cut into segments. The open one grows by Core.Released; a cut closes
// it. A checkpoint lies at a cut that the client has acknowledged: what is below is
// forgotten. So for a logged connection these hold, too (see the package comment):
//
//	checkpoint[Request]  <= received, the FIN not counted
//	checkpoint[Response] <= reported  <= released
//
// The last is why of a logged response no more is reported delivered than was told to be
// released, though the client may be ahead of both after a takeover.

// Segment is a piece of a response that was released to the client. It begins where
// the one before ends, the first at the checkpoint.
type Segment struct {
	End uint64 // the FIN does not count
	Sum Digest
}

// Log is what a logged connection is replayed from and verified against.
type Log struct {
	// Checkpoint is by Stream where replay starts.
	Checkpoint [2]uint64
	// Bytes are those of the request. In Continue.Log: from Checkpoint[Request] to
	// StreamState.Held, the FIN not among them; they belong to the caller, and
	// StreamState.Bytes are the same memory. For Core.Adopt: from Checkpoint[Request]
	// to StreamPos.Delivered, whose Bytes go on from there; none if the checkpoint is
	// beyond; they are copied.
	Bytes [][]byte
	// Segments are those above Checkpoint[Response]. The last one is open, and there
	// always is one; if it is empty, its Sum means nothing.
	Segments []Segment
	// State is the newest Released.State.
	State []byte
	// Turns, in Continue.Log: at which pace the request came, as far as that is known. Of what a snapshot has told it is not.
	Turns Turns
}

// maxSegments bounds a log's segments, the open one included. A cut beyond it ends the
// log (LimitSegments).
const maxSegments = 64

// connLog is the active's account of a logged connection. Offsets that the limits and
// permits depend on are in half: logAt.
type connLog struct {
	checkpoint uint64   // of the response
	cuts       []uint64 // ends of the closed segments above it
	sum        Digest   // of the open segment
	state      [wire.MaxState]byte
	stateLen   uint8
	news       bool // sum, end or state were told by the relay and not put into a batch
}

// start is where the open segment begins.
func (l *connLog) start() uint64 {
	if n := len(l.cuts); n > 0 {
		return l.cuts[n-1]
	}
	return l.checkpoint
}

// isCut reports whether off is the checkpoint or a cut above it, and which.
func (l *connLog) isCut(off uint64) (n int, ok bool) {
	if off == l.checkpoint {
		return 0, true
	}
	for i, end := range l.cuts {
		if end == off {
			return i + 1, true
		}
	}
	return 0, false
}

func (l *connLog) note(r *Released) {
	l.sum = r.Sum
	l.stateLen = uint8(copy(l.state[:], r.State))
	l.news = true
}

// Released tells that a logged response was released to the client up to r.End. Call
// it before the bytes leave; it need not be confirmed. Calls are merged until a batch
// takes the newest, unless they cut. A cut where a segment begins changes nothing.
// For a connection that is not logged (any more) it does nothing.
func (c *Core) Released(now Nanos, id ConnID, r Released) error {
	c.advance(now)
	e, err := c.find(id)
	if e == nil || e.log == nil {
		return err
	}
	if err := r.Validate(); err != nil {
		c.drops[BadRecord]++
		return err
	}
	a, l, h := &c.act, e.log, &e.s[Response]
	if r.End < h.logAt || (h.fin && r.End > h.finAt) {
		c.drops[BadOffset]++
		return ErrOffset
	}
	h.logAt = r.End
	l.note(&r)
	if !r.Cut || r.End == l.start() {
		a.setDirty(e)
		a.digests = true
		return nil
	}
	if len(l.cuts)+2 > maxSegments {
		c.giveUpLog(e, LimitSegments)
		return nil
	}
	if a.pending() >= c.lim.MaxPending {
		c.giveUpLog(e, LimitPending)
		return nil
	}
	a.room(wire.MaxSmallEntry, c.now)
	a.mark(e)
	a.cur.buf = wire.AppendReleased(a.cur.buf, id, &r)
	l.cuts = append(l.cuts, r.End)
	l.sum, l.news = Digest{}, false
	if h.safe() > h.reported {
		a.setDirty(e)
	}
	return nil
}

// Checkpoint tells that a replay of a logged connection starts at off from now on, by
// Stream: of the request any offset that was received; of the response a cut that the
// client has acknowledged (Delivered comes first). What lies below is forgotten. For
// a connection that is not logged (any more) it does nothing.
func (c *Core) Checkpoint(now Nanos, id ConnID, off [2]uint64) error {
	c.advance(now)
	e, err := c.find(id)
	if e == nil || e.log == nil {
		return err
	}
	a, l, req, resp := &c.act, e.log, &e.s[Request], &e.s[Response]
	n, cut := l.isCut(off[Response])
	if !cut || off[Response] > resp.safe() || off[Request] < req.logAt || off[Request] > req.dataEnd() {
		c.drops[BadOffset]++
		return ErrOffset
	}
	if n == 0 && off[Request] == req.logAt {
		return nil
	}
	if a.pending() >= c.lim.MaxPending {
		c.giveUpLog(e, LimitPending)
		return nil
	}
	if off[Response] > resp.reported {
		a.report(e, c.now)
	}
	a.room(wire.MaxSmallEntry, c.now)
	a.mark(e)
	a.cur.buf = wire.AppendCheckpoint(a.cur.buf, id, off)
	before := req.store()
	req.logAt = off[Request]
	a.held -= before - req.store()
	l.checkpoint = off[Response]
	l.cuts = l.cuts[:copy(l.cuts, l.cuts[n:])]
	return nil
}

// Unlog makes a logged connection a plain one: the standby forgets what it keeps
// beyond what is not delivered. For any other it does nothing.
func (c *Core) Unlog(now Nanos, id ConnID) error {
	c.advance(now)
	e, err := c.find(id)
	if e == nil || e.log == nil {
		return err
	}
	c.act.unlog(e, c.now)
	return nil
}

// giveUpLog does so at a limit. The connection stays protected against our own crash.
func (c *Core) giveUpLog(e *conn, why Reason) {
	c.drops[why]++
	c.ready.Unlogged = append(c.ready.Unlogged, e.id)
	c.act.unlog(e, c.now)
}

func (a *active) unlog(e *conn, now Nanos) {
	a.room(wire.MaxSmallEntry, now)
	a.mark(e)
	a.cur.buf = wire.AppendUnlog(a.cur.buf, e.id)
	before := e.s[Request].store()
	a.forgetLog(e)
	a.held -= before - e.s[Request].store()
	if h := &e.s[Response]; h.safe() > h.reported {
		a.setDirty(e) // the log held that back
	}
}

// beginLog makes e a logged connection whose replay starts at checkpoint.
func (a *active) beginLog(e *conn, checkpoint [2]uint64) {
	e.log = &connLog{checkpoint: checkpoint[Response]}
	e.s[Request].logAt, e.s[Request].keeps = checkpoint[Request], true
	e.s[Response].logAt, e.s[Response].capped = checkpoint[Response], true
	a.logged++
}

func (a *active) forgetLog(e *conn) {
	if e.log == nil {
		return
	}
	e.log = nil
	e.s[Request].keeps, e.s[Response].capped = false, false
	a.logged--
}

// ServerLeg tells that another server leg serves the connection from now on, with the
// streams' offsets unchanged; start says where in them the leg's own streams begin.
// Nothing that the new server says may go to the client before the connection is in
// Ready.Legs (invariant 3). A standby whose version does not know of such legs cannot
// continue the connection, which loses its protection (PeerVersion).
//
// Delivered goes on to count what any server has acknowledged. While the new one has
// not caught up with that, only the log has the bytes that it lacks: if the log ends
// then, a takeover cannot complete the replay, and must reset the connection.
func (c *Core) ServerLeg(now Nanos, id ConnID, leg *LegRecord, start [2]uint64) error {
	c.advance(now)
	if err := leg.Validate(); err != nil {
		c.drops[BadRecord]++
		return err
	}
	a := &c.act
	e, err := c.find(id)
	switch {
	case err != nil:
		return err
	case e == nil:
		e = a.conns[id]
		if e.session == a.session && e.state == stateDropping {
			e.legs++ // until the standby has forgotten the leg before
		} else if !slices.Contains(c.ready.Legs, id) {
			c.ready.Legs = append(c.ready.Legs, id)
		}
		return nil
	}
	resp := &e.s[Response]
	if start[Request] > e.s[Request].dataEnd() || start[Response] > resp.safe() {
		c.drops[BadOffset]++
		return ErrOffset
	}
	if a.version < wire.LogVersion {
		c.unprotect(e, PeerVersion)
		e.legs++
		return nil
	}
	if start[Response] > resp.reported {
		a.report(e, c.now)
	}
	a.room(wire.MaxSmallEntry, c.now)
	if m := a.mark(e); m.what&markLeg == 0 {
		m.what |= markLeg
		e.legs++
	}
	a.cur.buf = wire.AppendLeg(a.cur.buf, id, leg, start)
	return nil
}

// legsHeld announces the newest server leg once the standby knows of no older one.
func (e *conn) legsHeld(r *Ready) {
	if e.legs > 0 {
		e.legs = 0
		r.Legs = append(r.Legs, e.id)
	}
}

// describe appends what an Open or Adopt in the gathering batch does not say of r.
// There must be room for recordRoom.
func (a *active) describe(e *conn, r *Record, checkpoint [2]uint64) {
	if r.Start != [2]uint64{} {
		a.cur.buf = wire.AppendLeg(a.cur.buf, e.id, &r.Server, r.Start)
	}
	if r.Logged && a.version >= wire.LogVersion {
		a.cur.buf = wire.AppendLog(a.cur.buf, e.id, checkpoint)
		a.beginLog(e, checkpoint)
	}
}

// recordRoom is how many bytes a record may take, all in one batch.
func recordRoom(r *Record) int {
	n := wire.MaxSmallEntry
	if r.Logged {
		n += wire.MaxSmallEntry
	}
	if r.Start != [2]uint64{} {
		n += wire.MaxSmallEntry
	}
	return n
}
