package replication

import (
	"fmt"

	"lockstep/replication/wire"
)

// minSplit is the smallest piece of data worth putting at the end of a batch,
// bytes; less room than that closes it.
const minSplit = 2048

// room makes sure that n more bytes fit in the gathering batch.
func (a *active) room(n int, now Nanos) {
	if len(a.cur.buf)+n > a.lim.MaxBatchBytes && !a.cur.empty() {
		a.seal(now)
	}
	if a.cur.empty() {
		a.cur.since = now
	}
}

// seal closes the gathering batch and begins the next. Reports that are due go
// along, into the slack above MaxBatchBytes: under load they must not wait for the
// queue to drain.
func (a *active) seal(now Nanos) {
	a.reportDirty(a.lim.MaxBatchBytes+a.lim.MaxBatchBytes/4, now)
	a.waiting += len(a.cur.buf)
	a.sealed.push(a.cur)
	a.cur = a.newBatch()
	a.cur.since = now
}

func (a *active) newBatch() *batch {
	var b *batch
	if n := len(a.spare); n > 0 {
		b = a.spare[n-1]
		a.spare[n-1] = nil
		a.spare = a.spare[:n-1]
	} else {
		b = new(batch)
	}
	a.seq++
	a.index++
	*b = batch{seq: a.seq, index: a.index, buf: wire.Begin(b.buf[:0]), marks: b.marks[:0], lives: b.lives[:0]}
	return b
}

// recycle keeps b for reuse. Its marks must not keep connections alive.
func (a *active) recycle(b *batch) {
	clear(b.marks)
	b.marks = b.marks[:0]
	if len(a.spare) < maxSpareBatches {
		a.spare = append(a.spare, b)
	}
}

// mark returns e's mark in the gathering batch, up to date with all but what the
// caller is about to append.
func (a *active) mark(e *conn) *mark {
	b := a.cur
	if e.markIn != b.seq {
		e.markIn, e.markAt = b.seq, len(b.marks)
		b.marks = append(b.marks, mark{connRef: connRef{e, e.gen}})
	}
	m := &b.marks[e.markAt]
	for i := range e.s {
		m.shipped[i], m.reported[i] = e.s[i].shipped, e.s[i].reported
	}
	return m
}

// ship appends stream bytes, in as many batches as it takes.
func (a *active) ship(e *conn, s Stream, b []byte, fin bool, now Nanos) {
	h := &e.s[s]
	for {
		a.room(min(len(b), minSplit)+wire.MaxDataOverhead, now)
		n := min(len(b), max(a.lim.MaxBatchBytes-len(a.cur.buf)-wire.MaxDataOverhead, 0))
		last := n == len(b)
		end := last && fin
		a.cur.buf = wire.AppendData(a.cur.buf, e.id, s, h.shipped, b[:n], end)
		b = b[n:]
		before := h.store()
		h.shipped += uint64(n)
		if end {
			h.fin, h.finAt = true, h.shipped
			h.shipped++
		}
		h.received = max(h.received, h.shipped)
		a.held += h.store() - before
		a.cur.data += uint64(n)
		a.lag += uint64(n)
		a.mark(e)
		if last {
			break
		}
	}
	// Delivered may have come before the bytes that it covers.
	if h.safe() > h.reported {
		a.setDirty(e)
	}
}

// maxReport bounds what reportHere appends, bytes: an EntryReleased and an
// EntryDelivered, which are together smaller than the largest small entry.
const maxReport = wire.MaxSmallEntry

// report appends how far both streams of e were delivered, if that is news.
func (a *active) report(e *conn, now Nanos) {
	e.dirty = false // first, or sealing a full batch would report it, too
	if e.s[0].safe() > e.s[0].reported || e.s[1].safe() > e.s[1].reported {
		a.room(maxReport, now)
		a.reportHere(e)
	}
}

// reportHere appends it to the gathering batch, which has room for maxReport, behind
// what is news of the log: no more is delivered than was released. What was delivered
// without having been shipped is not kept by the standby: its end moves along.
func (a *active) reportHere(e *conn) {
	e.dirty = false
	if l := e.log; l != nil && l.news {
		l.news = false
		a.cur.buf = wire.AppendReleased(a.cur.buf, e.id, &Released{
			End: e.s[Response].logAt, Sum: l.sum, State: l.state[:l.stateLen],
		})
		a.mark(e)
	}
	if e.s[0].safe() <= e.s[0].reported && e.s[1].safe() <= e.s[1].reported {
		return
	}
	var off [2]uint64
	var fin [2]bool
	for i := range e.s {
		h := &e.s[i]
		before := h.store()
		h.reported = h.safe()
		h.shipped = max(h.shipped, h.reported)
		a.held -= before - h.store()
		off[i], fin[i] = h.reported, h.finReported()
	}
	a.cur.buf = wire.AppendDelivered(a.cur.buf, e.id, off, fin)
	a.mark(e)
}

// reportDirty appends due reports until the batch has grown to limit bytes: at most
// one per connection, however often it moved.
func (a *active) reportDirty(limit int, now Nanos) {
	if a.cur.empty() {
		a.cur.since = now
	}
	for a.dirtyHead < len(a.dirty) && len(a.cur.buf)+maxReport <= limit {
		e := a.dirty[a.dirtyHead].get()
		a.dirty[a.dirtyHead] = connRef{}
		a.dirtyHead++
		if e != nil && e.dirty && e.session == a.session && e.state <= stateOpen {
			a.reportHere(e)
		}
	}
	if a.dirtyHead == len(a.dirty) {
		a.dirty, a.dirtyHead = a.dirty[:0], 0
		a.digests = false
	} else if a.dirtyHead > 1024 && a.dirtyHead*2 > len(a.dirty) {
		n := copy(a.dirty, a.dirty[a.dirtyHead:])
		clear(a.dirty[n:])
		a.dirty, a.dirtyHead = a.dirty[:n], 0
	}
}

// flushable reports whether a batch can go now.
func (a *active) flushable() bool {
	if !a.joined {
		return false
	}
	if a.digests {
		return a.inflight.len() < a.lim.MaxOutstandingDigests
	}
	if a.sealed.len() > 0 || !a.cur.empty() {
		return a.inflight.len() < a.lim.MaxOutstanding
	}
	return a.dirtyHead < len(a.dirty) && a.inflight.len() < a.lim.MaxOutstandingQuiet
}

// flush appends the next batch if one can go. If dst is empty the storages are
// exchanged instead.
func (a *active) flush(dst []byte, epoch uint64, now Nanos) []byte {
	if !a.flushable() {
		return dst
	}
	var b *batch
	if a.sealed.len() > 0 {
		b = a.sealed.pop()
		a.waiting -= len(b.buf)
	} else {
		a.reportDirty(a.lim.MaxBatchBytes, now)
		if a.cur.empty() {
			return dst // the reports were of connections that have ended
		}
		b, a.cur = a.cur, a.newBatch()
	}
	wire.Finish(b.buf, 0, wire.Header{
		Version: a.version, Type: wire.TypeBatch, Epoch: epoch, Index: b.index,
	})
	a.inflight.push(b)
	if len(dst) > 0 {
		return append(dst, b.buf...)
	}
	dst, b.buf = b.buf, dst
	return dst
}

// step takes the standby's acknowledgement of all batches up to index.
func (a *active) step(c *Core, index uint64, payload []byte) error {
	var err error
	if a.refused, err = wire.DecodeAck(a.refused[:0], payload); err != nil {
		c.drops[BadFrame]++
		return err
	}
	sent := a.acked + uint64(a.inflight.len())
	if index > sent || index < a.acked {
		c.drops[BadFrame]++
		return ErrAckAhead
	}
	// First what the standby has dropped: the batches do not count for it.
	for _, id := range a.refused {
		if e := a.conns[id]; e != nil && e.session == a.session {
			a.refuse(c, e)
		}
	}
	for a.acked < index {
		b := a.inflight.pop()
		a.acked++
		a.lag -= b.data
		for i := range b.marks {
			if err := a.confirm(c, &b.marks[i]); err != nil {
				return err
			}
		}
		a.confirmLives(c, b)
		a.recycle(b)
	}
	if a.snap.synced > 0 && a.acked >= a.snap.synced {
		a.inSync = true
	}
	a.proceed(c)
	return nil
}

// refuse opens the gate of a connection that the standby has dropped for good.
func (a *active) refuse(c *Core, e *conn) {
	c.drops[PeerRefused]++
	c.opened(e)
	e.legsHeld(&c.ready)
	c.ready.Unprotected = append(c.ready.Unprotected, e.id)
	if e.state <= stateOpen {
		// It keeps a marker so that it does not take what is in flight for an error.
		a.room(wire.MaxSmallEntry, c.now)
		a.cur.buf = wire.AppendClose(a.cur.buf, e.id, wire.Unprotected)
		a.leave(e)
		a.unprotected++
	}
	if e.ended {
		a.free(e)
		return
	}
	e.session, e.state = 0, stateUnprotected
}

// confirm applies what the confirmation of a batch means for one connection.
func (a *active) confirm(c *Core, m *mark) error {
	e := m.get()
	if e == nil || e.session != a.session {
		return nil
	}
	if m.what&markOpen != 0 {
		if e.state == stateOpening {
			e.state = stateOpen
		}
		c.opened(e)
	}
	if e.state == stateDropping {
		if m.what&markDrop != 0 {
			e.legsHeld(&c.ready)
			c.ready.Unprotected = append(c.ready.Unprotected, e.id)
			if e.ended {
				a.free(e)
			} else {
				e.session, e.state = 0, stateUnprotected
			}
		}
		return nil
	}
	if m.what&markLeg != 0 {
		if e.legs--; e.legs == 0 {
			c.ready.Legs = append(c.ready.Legs, e.id)
		}
	}
	for i := range e.s {
		h := &e.s[i]
		h.held = max(h.held, m.shipped[i])
		h.known = max(h.known, m.reported[i])
		if h.finNeeds == 0 && h.fin && h.permit <= h.finAt && max(h.held, h.known) > h.finAt {
			h.finNeeds = e.s[i^1].delivered
		}
	}
	for i := range e.s {
		h := &e.s[i]
		permit := e.allowed(Stream(i))
		if permit <= h.permit {
			continue
		}
		if permit > h.received || h.held > h.shipped || h.known > h.delivered {
			c.drops[BrokenInvariant]++
			return ErrInvariant
		}
		h.permit = permit
		c.ready.Permits = append(c.ready.Permits, Permit{e.id, Stream(i), permit})
		if Stream(i) == Response && e.state <= stateOpen {
			a.age.remove(e, connAge)
			if h.received > permit {
				e.since = c.now
				a.age.pushBack(e, connAge)
			}
		}
	}
	if m.what&markClose != 0 {
		a.free(e)
	}
	return nil
}

// opened announces e once.
func (c *Core) opened(e *conn) {
	if !e.opened {
		e.opened = true
		c.ready.Opened = append(c.ready.Opened, e.id)
	}
}

// begin starts a session with a snapshot of the connections that run already. If
// there are none, its first batch says at once that the standby is in sync.
func (a *active) begin(c *Core, version uint8) {
	a.discard()
	a.joined, a.version = true, version
	a.lives.queue(version >= wire.DecideVersion)
	if version >= wire.AdoptVersion { // older standbys: they stay unprotected until they end
		for e := a.all.first; e != nil; e = e.all.next {
			a.snap.enqueue(e)
		}
		a.snap.total, a.snap.begun = a.snap.queue.n+a.resting, true
	}
	a.proceed(c)
}

// release ends the session: every connection of it is unprotected now.
func (a *active) release(c *Core) {
	r := &c.ready
	for e := a.all.first; e != nil; e = e.all.next {
		if e.session == a.session {
			r.Unprotected = append(r.Unprotected, e.id)
			e.legsHeld(r)
			a.forgetLog(e)
		}
	}
	a.joined, a.inSync = false, false
	a.releaseLives(c)
	a.unprotected += a.protected
	a.protected, a.held = 0, 0
	for a.inflight.len() > 0 {
		a.releaseBatch(a.inflight.pop(), r)
	}
	for a.sealed.len() > 0 {
		a.releaseBatch(a.sealed.pop(), r)
	}
	a.releaseBatch(a.cur, r)
	a.cur = a.newBatch()
	a.discard()
	for a.age.first != nil {
		a.age.remove(a.age.first, connAge)
	}
}

// releaseBatch does what the confirmation of b would have done, but for permits.
func (a *active) releaseBatch(b *batch, r *Ready) {
	for i := range b.marks {
		m := &b.marks[i]
		e := m.get()
		if e == nil || e.session != a.session {
			continue
		}
		if m.what&markOpen != 0 && !e.opened {
			e.opened = true
			r.Opened = append(r.Opened, e.id)
		}
		if m.what&(markClose|markDrop) != 0 && e.ended {
			a.free(e)
		}
	}
	a.recycle(b)
}

// discard forgets everything that is on its way, and makes the gathering batch the
// first of a session.
func (a *active) discard() {
	a.session++
	a.snap.clear()
	clear(a.dirty)
	a.dirty, a.dirtyHead, a.digests = a.dirty[:0], 0, false
	a.recycle(a.cur)
	a.index, a.acked, a.lag, a.waiting = 0, 0, 0, 0
	a.cur = a.newBatch()
}

func (a *active) stats(s *Stats, joined bool) {
	s.InSync = joined && a.inSync
	s.CanTakeOver = s.InSync
	switch {
	case !joined:
		s.Why = "no standby is connected"
	case a.snap.left()+a.resting > 0:
		s.Why = fmt.Sprintf("snapshot: %d of %d connections", a.snap.done(a), a.snap.total)
	case !a.inSync:
		s.Why = "standby has not confirmed the session"
	}
	s.SnapshotTotal, s.SnapshotDone = a.snap.total, a.snap.done(a)
	s.Unprotected = a.unprotected + a.resting
	s.Connections = a.protected + s.Unprotected
	s.Protected, s.Logged = a.protected, a.logged
	s.Lives, s.DecidedBytes = a.lives.all.n, a.lives.size
	s.LagBytes, s.HeldBytes = a.lag, a.held
	s.Outstanding, s.PendingBytes = a.inflight.len(), a.waiting
	if !a.cur.empty() {
		s.PendingBytes += len(a.cur.buf)
		s.OldestUnconfirmed = a.cur.since
	}
	if a.sealed.len() > 0 {
		s.OldestUnconfirmed = a.sealed.front().since
	}
	if a.inflight.len() > 0 {
		s.OldestUnconfirmed = a.inflight.front().since
	}
	s.Batches = a.acked + uint64(a.inflight.len())
}
