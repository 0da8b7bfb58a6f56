package replication

import (
	"fmt"

	"lockstep/replication/wire"
)

// A standby that joins gets a snapshot of the connections that run already. It is
// not a picture of one moment: each connection is adopted on its own, while traffic
// flows, and is replicated like any other from then on. Only when the last one is in
// the stream of batches does EntrySynced follow. So a takeover either finds all of
// them, or is refused (invariant 5), and a session that ends before has changed
// nothing but a few gates.

// Pacing. Held ACKs of running transfers wait behind what the snapshot has put into
// the stream of batches before them, and its work takes CPU away from theirs: 12000
// connections a second leave them most of it. While nothing else moves there is no
// reason to wait.
const (
	// adoptBurst is how many connections the shell is asked for at once, adoptPause the
	// time from one burst to the next while there is traffic.
	adoptBurst = 24
	adoptPause = 2 * millisecond
	// adoptQuiet is how long nothing has moved when there is none.
	adoptQuiet = 10 * millisecond
	// maxAsked is how many may be unanswered.
	maxAsked = 96
	// adoptPending is how many bytes of batches may wait for more to be asked.
	adoptPending = 64 << 10
)

// snapshot is what is left to do of a joiner's snapshot. A connection is in one of
// the lists from the session's beginning until it is adopted or ends.
type snapshot struct {
	queue, asked list[conn]
	total        int    // connections at the beginning
	due          Nanos  // of the next burst
	moved        Nanos  // when bytes last moved on any connection
	begun        bool   // the session has one
	synced       uint64 // index of the batch that carries EntrySynced; 0: not written yet
}

func connSnap(c *conn) *link[conn] { return &c.snap }

// left is how many connections are neither adopted nor ended.
func (s *snapshot) left() int { return s.queue.n + s.asked.n }

// done is how many connections of a session's beginning are.
func (s *snapshot) done(a *active) int {
	if !s.begun {
		return 0
	}
	return s.total - s.left() - a.resting
}

func (s *snapshot) enqueue(e *conn) {
	e.asked = false
	s.queue.pushBack(e, connSnap)
}

// remove takes e out of its list, if it is in one.
func (s *snapshot) remove(e *conn) {
	if e.asked {
		s.asked.remove(e, connSnap)
	} else {
		s.queue.remove(e, connSnap)
	}
	e.asked = false
}

func (s *snapshot) clear() {
	for s.queue.first != nil {
		s.remove(s.queue.first)
	}
	for s.asked.first != nil {
		s.remove(s.asked.first)
	}
	s.total, s.synced, s.due, s.begun = 0, 0, 0, false
}

// StreamPos is where a stream of a running connection stands when it is adopted.
// Offsets count the FIN as one byte.
type StreamPos struct {
	// Delivered is how far its receiver has acknowledged it.
	Delivered uint64
	// Acked is how far it was acknowledged to its sender, who may have forgotten all
	// that lies below. The gate must be closed there.
	Acked uint64
	// Received is how far it was read from its sender. Fin: the byte before Received
	// is the FIN.
	Received uint64
	Fin      bool
	// Bytes are those from Delivered on, without the FIN: of the request all that was
	// received, of the response at least all that was acknowledged. They are copied.
	Bytes [][]byte
}

// size is the number of bytes; fin tells whether the FIN follows them.
func (p *StreamPos) size() (n uint64, fin bool) {
	for _, b := range p.Bytes {
		n += uint64(len(b))
	}
	return n, p.Fin && p.Delivered+n+1 == p.Received
}

// end is the offset behind what the standby will hold.
func (p *StreamPos) end() uint64 {
	n, fin := p.size()
	if fin {
		n++
	}
	return p.Delivered + n
}

// finDelivered: the receiver has acknowledged the FIN.
func (p *StreamPos) finDelivered() bool { return p.Fin && p.Delivered == p.Received }

// possible reports whether a stream can stand there.
func (p *StreamPos) possible(s Stream) bool {
	end := p.end()
	switch {
	case p.Delivered > p.Received, end > p.Received, p.Acked > end:
	case p.Fin && p.Received == 0, p.Fin && !p.finDelivered() && p.Delivered+1 > p.Received:
	case s == Request && end != p.Received:
	default:
		return true
	}
	return false
}

// Adopt makes a running connection a protected one: the answer to Ready.Adopt. The
// shell has closed both gates at StreamPos.Acked before; they move by Permits from
// then on. After an error the connection is as unprotected as before and its gates
// must be opened; with ErrLater it is asked for again.
//
// log is given if r.Logged, else nil. It says what lies below pos. Where only the log
// exceeds a limit the connection becomes a plain one (Ready.Unlogged); for a standby
// of an older version it is one from the start.
func (c *Core) Adopt(now Nanos, r *Record, pos [2]StreamPos, log *Log) error {
	c.advance(now)
	a := &c.act
	switch {
	case c.role != RoleActive:
		return ErrRole
	case !c.joined:
		return ErrNoSession
	}
	e := a.conns[r.ID]
	if e == nil {
		c.drops[UnknownConn]++
		return ErrUnknownConn
	}
	if !e.snap.in {
		return ErrUnexpected // of a session before, and decided since
	}
	a.snap.remove(e)
	kept, err := c.adoptable(r, &pos, log)
	switch err {
	case nil:
		a.adopt(e, r, &pos, kept, c.now)
	case ErrLater:
		a.snap.enqueue(e)
	}
	a.proceed(c)
	return err
}

// adoptable says why a connection cannot be adopted, and counts it. It returns the log
// with which it can be, nil for a plain connection.
func (c *Core) adoptable(r *Record, pos *[2]StreamPos, log *Log) (*Log, error) {
	a := &c.act
	if err := r.Validate(); err != nil {
		c.drops[BadRecord]++
		return nil, fmt.Errorf("adopt connection %d: %w", r.ID, err)
	}
	for i := range pos {
		if !pos[i].possible(Stream(i)) {
			c.drops[BadOffset]++
			return nil, ErrOffset
		}
	}
	if r.Spliced && !unmoved(pos) {
		c.drops[BadOffset]++
		return nil, ErrSpliced
	}
	if r.Logged != (log != nil) || (log != nil && !log.possible(pos)) {
		c.drops[BadOffset]++
		return nil, ErrOffset
	}
	if !r.Fits(a.version) {
		c.drops[PeerVersion]++
		return nil, ErrVersionLeg
	}
	if a.version < wire.LogVersion {
		log = nil
	}
	why, err := c.adoptLimit(pos, log)
	if err == ErrLimit && log != nil && why != LimitConns {
		if _, err = c.adoptLimit(pos, nil); err == nil {
			c.drops[why]++
			c.ready.Unlogged = append(c.ready.Unlogged, r.ID)
			return nil, nil
		}
	}
	if err == ErrLimit {
		c.drops[why]++
	}
	return log, err
}

// adoptLimit compares what the standby would have to hold with the limits.
func (c *Core) adoptLimit(pos *[2]StreamPos, log *Log) (Reason, error) {
	a := &c.act
	var size [2]uint64
	for i := range pos {
		size[i], _ = pos[i].size()
	}
	if log != nil {
		size[Request] += log.size()
	}
	total := size[Request] + size[Response]
	switch {
	case max(size[Request], size[Response]) > c.lim.MaxHeldPerStream:
		return LimitStream, ErrLimit
	case a.protected >= c.lim.MaxConns:
		return LimitConns, ErrLimit
	case a.held+total > c.lim.MaxHeldTotal:
		return LimitTotal, ErrLimit
	case a.pending()+int(total) <= c.lim.MaxPending-wire.MaxSmallEntry:
		return 0, nil
	case a.pending() > adoptPending:
		return 0, ErrLater // those before it have filled the queue
	default:
		return LimitPending, ErrLimit
	}
}

// size is the number of request bytes that the log adds.
func (l *Log) size() (n uint64) {
	for _, b := range l.Bytes {
		n += uint64(len(b))
	}
	return n
}

// possible reports whether a connection whose streams stand at pos can have the log.
func (l *Log) possible(pos *[2]StreamPos) bool {
	req, resp := pos[Request].data(), pos[Response].data()
	cp := l.Checkpoint
	switch {
	case cp[Request] > req.Received, cp[Request]+l.size() != max(cp[Request], req.Delivered):
		return false
	case cp[Response] > resp.Delivered, len(l.State) > wire.MaxState:
		return false
	case len(l.Segments) == 0, len(l.Segments) > maxSegments:
		return false
	}
	end, last := cp[Response], len(l.Segments)-1
	for i, g := range l.Segments {
		if g.End < end || (g.End == end && i < last) {
			return false
		}
		end = g.End
	}
	return end >= resp.Delivered && !(pos[Response].Fin && end > resp.Received)
}

// data is the position without the FIN.
func (p *StreamPos) data() StreamPos {
	d := StreamPos{Delivered: p.Delivered, Received: p.Received}
	if p.Fin {
		d.Received--
		d.Delivered = min(d.Delivered, d.Received)
	}
	return d
}

// adopt puts the connection, with the bytes that only we have, into the stream of
// batches. Nothing of it is confirmed yet, so its permits begin at zero, below the
// gates. A logged connection begins at its checkpoint, and the report of what is
// delivered follows its bytes.
func (a *active) adopt(e *conn, r *Record, pos *[2]StreamPos, log *Log, now Nanos) {
	a.unprotected--
	a.protected++
	e.session, e.state, e.opened, e.dirty = a.session, stateOpen, true, false
	e.spliced = r.Spliced
	if r.Spliced {
		a.room(recordRoom(r), now)
		a.splice(e, r)
		a.mark(e)
		return
	}
	var delivered, end, checkpoint [2]uint64
	var fin [2]bool
	if log != nil {
		checkpoint = log.Checkpoint
	}
	a.ownHalfs(e)
	for i := range pos {
		p, h := &pos[i], &e.s[i]
		delivered[i], end[i], fin[i] = p.Delivered, p.end(), p.finDelivered()
		if log != nil && Stream(i) == Request && checkpoint[i] < p.Delivered {
			delivered[i], fin[i] = checkpoint[i], false
		}
		*h = half{received: delivered[i], shipped: delivered[i], delivered: p.Delivered, reported: delivered[i]}
		if Stream(i) == Response {
			h.received = p.Received
		}
		if p.Fin && (Stream(i) == Response || fin[i]) {
			h.fin, h.finAt = true, p.Received-1
		}
	}
	rec := *r
	rec.Logged = log != nil
	a.room(recordRoom(&rec), now)
	a.cur.buf = wire.AppendAdopt(a.cur.buf, &rec, delivered, end, fin)
	a.describe(e, &rec, checkpoint)
	a.mark(e)
	if log != nil {
		a.adoptLog(e, log, now)
	}
	for i := range pos {
		a.shipAll(e, Stream(i), pos[i].Bytes, now)
		_, finFollows := pos[i].size()
		if finFollows || (pos[i].finDelivered() && !fin[i]) {
			a.ship(e, Stream(i), nil, true, now)
		}
	}
	a.report(e, now)
	if e.s[Response].received > 0 {
		e.since = now
		a.age.pushBack(e, connAge)
	}
}

// adoptLog appends the segments, and the request's bytes up to what is delivered.
func (a *active) adoptLog(e *conn, log *Log, now Nanos) {
	l, h := e.log, &e.s[Response]
	last := len(log.Segments) - 1
	for i, g := range log.Segments {
		r := Released{End: g.End, Sum: g.Sum, Cut: i < last, State: log.State}
		a.room(wire.MaxSmallEntry, now)
		a.cur.buf = wire.AppendReleased(a.cur.buf, e.id, &r)
		h.logAt = g.End
		if r.Cut {
			l.cuts = append(l.cuts, g.End)
		} else {
			l.note(&r)
		}
	}
	l.news = false
	a.shipAll(e, Request, log.Bytes, now)
}

func (a *active) shipAll(e *conn, s Stream, bytes [][]byte, now Nanos) {
	for _, b := range bytes {
		if len(b) > 0 {
			a.ship(e, s, b, false, now)
		}
	}
}

// proceed asks for the next connections, or ends the snapshot.
func (a *active) proceed(c *Core) {
	s := &a.snap
	if !a.joined || s.synced > 0 {
		return
	}
	told := a.tellLives(c.now)
	if s.left() == 0 && (a.resting > 0 || !told) {
		return
	}
	if s.left() == 0 {
		a.room(1, c.now)
		a.cur.buf = wire.AppendSynced(a.cur.buf)
		s.synced = a.cur.index
		return
	}
	for s.mayAsk(a) && (c.now >= s.due || c.now-s.moved > adoptQuiet) {
		s.ask(c)
	}
}

// mayAsk reports whether only time may forbid the next burst.
func (s *snapshot) mayAsk(a *active) bool {
	return s.queue.n > 0 && s.asked.n+adoptBurst <= maxAsked && a.pending() <= adoptPending
}

// next is when the next burst is due, if only time forbids it.
func (s *snapshot) next(a *active) Nanos {
	if s.mayAsk(a) {
		return s.due
	}
	return Never
}

// ask makes a burst.
func (s *snapshot) ask(c *Core) {
	s.due = c.now + adoptPause
	for range min(adoptBurst, s.queue.n) {
		e := s.queue.first
		s.queue.remove(e, connSnap)
		e.asked = true
		s.asked.pushBack(e, connSnap)
		c.ready.Adopt = append(c.ready.Adopt, e.id)
	}
}

// Asked is how many connections of Ready.Adopt are not answered yet. A shell that
// flushes when the last is spares both sides many small batches.
func (c *Core) Asked() int { return c.act.snap.asked.n }

// check verifies the lists; a is the table that they belong to.
func (s *snapshot) check(a *active) error {
	if s.left() > 0 && (!a.joined || s.synced > 0 || a.version < wire.AdoptVersion) {
		return broken("%d connections to adopt, joined %v, synced in batch %d, version %d", s.left(), a.joined, s.synced, a.version)
	}
	for i, l := range [2]*list[conn]{&s.queue, &s.asked} {
		n := 0
		for e := l.first; e != nil; e = e.snap.next {
			n++
			if a.conns[e.id] != e || !e.snap.in || e.asked != (i == 1) || e.session == a.session {
				return broken("connection %d is to be adopted in session %d (ours is %d)", e.id, e.session, a.session)
			}
		}
		if n != l.n {
			return broken("%d connections in a list of %d", n, l.n)
		}
	}
	if s.asked.n > maxAsked {
		return broken("%d connections are asked for", s.asked.n)
	}
	return nil
}
