package replication

import "lockstep/replication/wire"

// active is the active's side: the table of connections and what is on its way to
// the standby.
type active struct {
	lim   *Limits
	conns map[ConnID]*conn
	all   list[conn] // the same, in order of opening
	age   list[conn] // responses pending, by conn.since

	// session counts sessions; a connection of another session is unprotected, and a
	// mark of another session void.
	session uint32
	version uint8 // of the session's frames
	joined  bool
	inSync  bool // the standby has confirmed EntrySynced
	snap    snapshot
	lives   lives

	protected, unprotected int
	resting                int    // continued, but not by the shell yet: see Rest
	logged                 int    // with conn.log
	held                   uint64 // sum of half.store over the protected
	lag                    uint64 // sum of batch.data of all unconfirmed batches

	pipeline
	deliveries

	spares

	refused []ConnID // scratch
}

// pipeline is the batches on their way to the standby.
type pipeline struct {
	seq      uint64 // of the newest batch
	index    uint64 // of the newest batch in this session
	acked    uint64 // newest index that the standby has confirmed
	cur      *batch // gathering; never nil
	sealed   queue  // full, waiting for their turn
	waiting  int    // bytes in sealed
	inflight queue
	spare    []*batch // for reuse, at most maxSpareBatches
}

// deliveries are what the next batch is to say of what was delivered.
type deliveries struct {
	dirty     []connRef // delivered has moved, in order
	dirtyHead int
	digests   bool // some of the dirty have news of a digest
}

// spares are what the next connections get, and what all share whose streams nothing is said of; see conn.s.
type spares struct {
	none       [2]half    // zero: that of all others, which are most
	spareHalfs []*[2]half // for reuse, at most maxPooledConns

	pool   *conn // for reuse, linked by all.next
	pooled int
}

const (
	maxSpareBatches = 16
	maxPooledConns  = 4096
)

func (a *active) init(lim *Limits) {
	*a = active{lim: lim, conns: make(map[ConnID]*conn), session: a.session + 1, pipeline: pipeline{seq: a.seq}}
	a.cur = a.newBatch()
	a.lives.init()
}

// Open begins a connection whose SYN-ACK must not leave before it is in
// Ready.Opened. Without a standby, or at a limit, it is so at once, and in
// Ready.Unprotected: the connection is not protected before another standby joins.
func (c *Core) Open(now Nanos, r *Record) error {
	c.advance(now)
	a := &c.act
	if c.role != RoleActive {
		return ErrRole
	}
	if old := a.conns[r.ID]; old != nil {
		if a.isProtected(old) || old.ended {
			c.drops[DuplicateOpen]++
			return ErrDuplicate
		}
		// A connection that was taken over, announced again.
		c.ready.Opened = append(c.ready.Opened, r.ID)
		c.ready.Unprotected = append(c.ready.Unprotected, r.ID)
		return nil
	}
	err := r.Validate()
	if err != nil {
		c.drops[BadRecord]++
	}
	if err != nil || !c.joined || c.atLimit(r) {
		a.addUnprotected(r.ID)
		c.ready.Opened = append(c.ready.Opened, r.ID)
		c.ready.Unprotected = append(c.ready.Unprotected, r.ID)
		return err
	}
	e := a.add(r.ID)
	e.session, e.state = a.session, stateOpening
	if !r.Spliced {
		a.ownHalfs(e)
	}
	a.protected++
	a.room(recordRoom(r), c.now)
	a.mark(e).what |= markOpen
	if r.Spliced {
		a.splice(e, r)
		return nil
	}
	a.cur.buf = wire.AppendOpen(a.cur.buf, r)
	a.describe(e, r, [2]uint64{})
	return nil
}

// atLimit counts and reports that one more connection cannot be protected.
func (c *Core) atLimit(r *Record) bool {
	switch a := &c.act; {
	case a.protected >= c.lim.MaxConns:
		c.drops[LimitConns]++
	case a.pending() >= c.lim.MaxPending:
		c.drops[LimitPending]++
	case !r.Fits(a.version):
		c.drops[PeerVersion]++
	default:
		return false
	}
	return true
}

// find returns the connection if it is replicated, and counts unknown ones.
func (c *Core) find(id ConnID) (*conn, error) {
	e := c.act.conns[id]
	if e == nil {
		c.drops[UnknownConn]++
		return nil, ErrUnknownConn
	}
	c.act.snap.moved = c.now
	if e.session != c.act.session || e.state > stateOpen {
		return nil, nil
	}
	if e.spliced {
		c.drops[BadOffset]++
		return nil, ErrSpliced
	}
	return e, nil
}

// Data hands in bytes of a stream from offset off on, followed by its FIN if fin.
// b is copied. Request bytes: all, once, in order, as soon as they are read.
// Response bytes: when Ready.Need asks for them, from the asked offset or less far
// back; what has been delivered meanwhile is skipped.
func (c *Core) Data(now Nanos, id ConnID, s Stream, off uint64, b []byte, fin bool) error {
	c.advance(now)
	e, err := c.find(id)
	if e == nil {
		return err
	}
	h := &e.s[s&1]
	expect := h.shipped
	if s == Response {
		expect = max(expect, h.safe())
		if end := off + uint64(len(b)); off < expect {
			if end < expect || (end == expect && !fin) {
				return nil // all of it was delivered meanwhile
			}
			b, off = b[expect-off:], expect
		}
	}
	if off != expect {
		c.drops[BadOffset]++
		return ErrOffset
	}
	end := off + uint64(len(b))
	if h.fin && (end > h.finAt || (fin && end != h.finAt)) {
		c.drops[BadOffset]++
		return ErrFinPassed
	}
	if len(b) == 0 && !fin {
		return nil
	}
	why, full := c.tooMuch(h, expect, len(b))
	if full && e.log != nil && (why == LimitTotal || (why == LimitStream && s == Request)) {
		c.giveUpLog(e, why)
		c.act.report(e, c.now) // what is delivered does not count without a log
		why, full = c.tooMuch(h, expect, len(b))
	}
	if full {
		c.unprotect(e, why)
		return nil
	}
	if expect > h.shipped || h.store()+uint64(len(b)) > c.lim.MaxHeldPerStream {
		// The standby must learn first that it can let go of what was delivered, or that
		// its end moves along with it (see reportHere).
		c.act.report(e, c.now)
	}
	if s == Request && e.log != nil && e.log.news {
		// The standby must learn first what the client had when it sent this (see Turn).
		c.act.room(maxReport, c.now)
		c.act.reportHere(e)
	}
	c.act.ship(e, s&1, b, fin, c.now)
	return nil
}

// tooMuch checks the limits for n more bytes, the first at off.
func (c *Core) tooMuch(h *half, off uint64, n int) (Reason, bool) {
	a := &c.act
	switch {
	case off+uint64(n)-min(h.low(h.safe()), off) > c.lim.MaxHeldPerStream:
		return LimitStream, true
	case a.held+uint64(n) > c.lim.MaxHeldTotal:
		return LimitTotal, true
	case a.pending()+n > c.lim.MaxPending:
		return LimitPending, true
	}
	return 0, false
}

// Received tells how far the response stream has been read from the server: off
// is the offset behind the last byte. With fin it ended there, and off counts the
// FIN; a logged response cannot end before what was released of it. (Request bytes are
// received by Data.)
func (c *Core) Received(now Nanos, id ConnID, s Stream, off uint64, fin bool) error {
	c.advance(now)
	e, err := c.find(id)
	if e == nil {
		return err
	}
	h := &e.s[Response]
	if s != Response || (fin && off == 0) || (h.fin && off > h.finAt+1) || (fin && off < h.received) ||
		(fin && h.capped && off <= h.logAt) {
		c.drops[BadOffset]++
		return ErrOffset
	}
	if off > h.received {
		h.received = off
		if h.safe() > h.reported {
			c.act.setDirty(e)
		}
	}
	if fin && !h.fin {
		h.fin, h.finAt = true, off-1
	}
	if h.received > h.permit && !e.age.in {
		e.since = c.now
		c.act.age.pushBack(e, connAge)
	}
	return nil
}

// Delivered tells how far the receiver of a stream has acknowledged it; the FIN
// counts as one byte.
func (c *Core) Delivered(now Nanos, id ConnID, s Stream, off uint64) error {
	c.advance(now)
	e, err := c.find(id)
	if e == nil {
		return err
	}
	h := &e.s[s&1]
	if h.fin && off > h.finAt+1 {
		c.drops[BadOffset]++
		return ErrOffset
	}
	if off <= h.delivered {
		return nil
	}
	h.delivered = off
	if h.safe() > h.reported {
		c.act.setDirty(e)
	}
	return nil
}

// Close ends a connection. Finished: both FINs were acknowledged by their
// receivers; Permits still come for it until the standby knows. Aborted: it was
// reset; nothing more is said about it.
func (c *Core) Close(now Nanos, id ConnID, kind CloseKind) error {
	c.advance(now)
	a := &c.act
	e := a.conns[id]
	if e == nil || e.ended {
		c.drops[UnknownConn]++
		return ErrUnknownConn
	}
	if e.session != a.session || e.state == stateUnprotected {
		a.unprotected--
		a.free(e)
		a.proceed(c) // it may have been the last that was to be adopted
		return nil
	}
	if e.state == stateDropping {
		a.unprotected--
		if kind == Finished {
			// The gate may still hold back the ACK of a FIN; confirm opens it.
			e.ended = true
			return nil
		}
		a.free(e)
		return nil
	}
	var err error
	if kind != Aborted && !(kind == Finished && (e.spliced || e.whole())) {
		c.drops[BadOffset]++
		kind, err = Aborted, ErrOffset
	}
	if kind == Finished && !e.spliced {
		a.report(e, c.now)
	}
	a.room(wire.MaxSmallEntry, c.now)
	m := a.mark(e)
	a.cur.buf = wire.AppendClose(a.cur.buf, id, kind)
	a.leave(e)
	if kind == Aborted {
		a.free(e)
		return err
	}
	m.what |= markClose
	e.state, e.ended = stateClosing, true
	return nil
}

// whole reports whether both streams were acknowledged to their ends.
func (e *conn) whole() bool {
	for i := range e.s {
		if h := &e.s[i]; !h.fin || h.safe() != h.finAt+1 {
			return false
		}
	}
	return true
}

// unprotect takes the standby's promise back: it is told to forget the connection,
// and only when it has confirmed that does the gate open (confirm). Were it opened
// now, a takeover could continue the connection from a state behind its ACKs
// (invariant 5).
func (c *Core) unprotect(e *conn, why Reason) {
	a := &c.act
	c.drops[why]++
	a.room(wire.MaxSmallEntry, c.now)
	a.mark(e).what |= markDrop
	a.cur.buf = wire.AppendClose(a.cur.buf, e.id, wire.Unprotected)
	a.leave(e)
	a.unprotected++
	e.state = stateDropping
}

// Forgo gives up the protection of a connection whose server leg the standby could not
// continue. The gates open when the standby has confirmed that it forgot the connection
// (Ready.Unprotected); one that waits to be adopted stays unprotected in this session.
func (c *Core) Forgo(now Nanos, id ConnID) error {
	c.advance(now)
	a := &c.act
	e := a.conns[id]
	switch {
	case e == nil:
		c.drops[UnknownConn]++
		return ErrUnknownConn
	case a.isProtected(e) && e.state <= stateOpen:
		c.unprotect(e, LegBehind)
	case e.snap.in:
		c.drops[LegBehind]++
		a.snap.remove(e)
		a.proceed(c)
	}
	return nil
}

// leave takes a protected connection out of everything but the table.
func (a *active) leave(e *conn) {
	a.held -= e.s[0].store() + e.s[1].store()
	a.protected--
	a.age.remove(e, connAge)
	e.dirty = false
	a.forgetLog(e)
}

// Protected reports whether the standby would continue the connection, or is about
// to be able to.
func (c *Core) Protected(id ConnID) bool {
	e := c.act.conns[id]
	return e != nil && c.act.isProtected(e)
}

// Congested asks the shell to read less from clients: so much waits for the
// standby that protection is about to be lost (Limits.MaxPending).
func (c *Core) Congested() bool { return c.act.pending() > c.lim.MaxPending/2 }

func (a *active) isProtected(e *conn) bool {
	return e.session == a.session && e.state <= stateClosing
}

// pending is how many bytes of batches wait.
func (a *active) pending() int { return a.waiting + len(a.cur.buf) }

func (a *active) add(id ConnID) *conn {
	e := a.pool
	if e != nil {
		a.pool, e.all.next = e.all.next, nil
		a.pooled--
	} else {
		e = new(conn)
	}
	e.id, e.s = id, &a.none
	a.conns[id] = e
	a.all.pushBack(e, connAll)
	return e
}

// ownHalfs gives e streams of its own, if it has none.
func (a *active) ownHalfs(e *conn) {
	switch n := len(a.spareHalfs); {
	case e.s != &a.none:
	case n > 0:
		e.s, a.spareHalfs = a.spareHalfs[n-1], a.spareHalfs[:n-1]
		*e.s = [2]half{}
	default:
		e.s = new([2]half)
	}
}

// freeHalfs takes them back.
func (a *active) freeHalfs(e *conn) {
	if e.s != &a.none && len(a.spareHalfs) < maxPooledConns {
		a.spareHalfs = append(a.spareHalfs, e.s)
	}
	e.s = &a.none
}

func (a *active) addUnprotected(id ConnID) {
	a.add(id).state = stateUnprotected
	a.unprotected++
}

// free takes e out of the table. References to it become void.
func (a *active) free(e *conn) {
	delete(a.conns, e.id)
	a.all.remove(e, connAll)
	a.age.remove(e, connAge)
	a.snap.remove(e)
	a.freeHalfs(e)
	*e = conn{gen: e.gen + 1}
	if a.pooled < maxPooledConns {
		e.all.next, a.pool = a.pool, e
		a.pooled++
	}
}

func (a *active) setDirty(e *conn) {
	if !e.dirty {
		e.dirty = true
		a.dirty = append(a.dirty, connRef{e, e.gen})
	}
}

// nextAge is when the oldest pending response becomes due.
func (a *active) nextAge() Nanos {
	if a.age.first == nil {
		return Never
	}
	return a.age.first.since + a.lim.ShipAfter
}

// nextTick is when tick has something to do.
func (a *active) nextTick() Nanos { return min(a.nextAge(), a.snap.next(a)) }

// tick asks for the next connections of a snapshot, and for responses that were
// pending for too long: their servers are about to retransmit. Each is asked again after another ShipAfter, for what came since.
func (a *active) tick(c *Core) {
	a.proceed(c)
	for e := a.age.first; e != nil && c.now-e.since >= a.lim.ShipAfter; e = a.age.first {
		a.age.remove(e, connAge)
		e.since = c.now
		a.age.pushBack(e, connAge)
		h := &e.s[Response]
		from := max(h.shipped, h.safe())
		to := min(h.received, h.safe()+a.lim.MaxHeldPerStream)
		if from < to {
			c.ready.Need = append(c.ready.Need, Range{e.id, Response, from, to})
		} else if h.held == h.shipped && h.shipped < h.received && h.safe() <= h.reported {
			// All that fits is held, and still the server waits: rather than let its
			// connection time out, give up protecting it.
			c.unprotect(e, LimitStream)
		}
	}
}
