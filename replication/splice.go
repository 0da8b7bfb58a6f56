package replication

import "lockstep/replication/wire"

// A connection that is passed on between its two peers, not ended here, has a record and
// nothing else: each byte is acknowledged by its receiver, so none has to be kept by
// anybody in between, and the one rule of acknowledgement holds by construction. Its
// streams stay at offset 0 in all tables; whoever tells of bytes is refused. It begins,
// is told to a standby that joins, is continued and ends like any other, or comes to be ended here
// (Terminate). Finished leaves a
// tombstone: the last ACK may have been lost, and then a FIN and its ACK still have to be
// passed on.

// splice puts the record into the gathering batch. There must be room for recordRoom.
func (a *active) splice(e *conn, r *Record) {
	e.spliced = true
	a.freeHalfs(e)
	a.cur.buf = wire.AppendSplice(a.cur.buf, r)
}

// unmoved reports whether nothing is said of either stream.
func unmoved(pos *[2]StreamPos) bool {
	for i := range pos {
		if p := &pos[i]; p.Received > 0 || p.Delivered > 0 || p.Acked > 0 || p.Fin || len(p.Bytes) > 0 {
			return false
		}
	}
	return true
}

// splice makes the record of a connection that is passed on.
func (s *standby) splice(index uint64, e *wire.Entry) error {
	if s.version < wire.SpliceVersion {
		return ErrUnexpected
	}
	k, err := s.open(index, e)
	if k != nil {
		k.spliced = true
	}
	return err
}

// MaySplice reports whether a connection that begins now can be passed on and be
// protected as far as it could otherwise: a standby that does not know of such
// connections would not continue it.
func (c *Core) MaySplice() bool { return !c.joined || c.act.version >= wire.SpliceVersion }

// Terminate makes a connection that was passed on one that is ended here, from where pos says: the standby's record
// is replaced. The shell has closed both gates at StreamPos.Acked before, which is no further than the
// receivers have acknowledged: so nothing is lost whichever of the two the standby continues. From when it has
// confirmed this on Permits come as for any other. An error says that the connection is not protected. Without one it is,
// or Ready.Unprotected tells when it is not any more: the standby does not know of such a change, or a limit forbids it.
func (c *Core) Terminate(now Nanos, r *Record, pos [2]StreamPos) error {
	c.advance(now)
	a := &c.act
	e := a.conns[r.ID]
	switch {
	case c.role != RoleActive:
		return ErrRole
	case e == nil || e.ended:
		c.drops[UnknownConn]++
		return ErrUnknownConn
	case e.session == a.session && e.state == stateDropping:
		e.spliced = false
		return nil
	case !a.isProtected(e):
		e.spliced = false // a standby that joins adopts it as what it is now
		return ErrNoSession
	}
	why, ok := c.terminable(e, r, &pos)
	if !ok {
		c.unprotect(e, why)
		e.spliced = false
		return nil
	}
	a.terminate(e, r, &pos, c.now)
	return nil
}

// terminable says why the standby cannot be told.
func (c *Core) terminable(e *conn, r *Record, pos *[2]StreamPos) (why Reason, ok bool) {
	if e.state != stateOpen || !e.spliced || r.Validate() != nil || r.Spliced || r.Logged || r.Start != [2]uint64{} {
		return BadRecord, false
	}
	var size [2]uint64
	for i := range pos {
		if p := &pos[i]; !p.possible(Stream(i)) || p.Acked > p.Delivered {
			return BadOffset, false
		}
		size[i], _ = pos[i].size()
	}
	a, total := &c.act, size[Request]+size[Response]
	switch {
	case a.version < wire.TerminateVersion:
		return PeerVersion, false
	case max(size[Request], size[Response]) > c.lim.MaxHeldPerStream:
		return LimitStream, false
	case a.held+total > c.lim.MaxHeldTotal:
		return LimitTotal, false
	case a.pending()+int(total) > c.lim.MaxPending-wire.MaxSmallEntry:
		return LimitPending, false
	}
	return 0, true
}

// terminate puts it into the stream of batches. Nothing of it is confirmed yet, so its permits begin at zero, below
// the gates.
func (a *active) terminate(e *conn, r *Record, pos *[2]StreamPos, now Nanos) {
	var delivered [2]uint64
	var fin [2]bool
	a.ownHalfs(e)
	for i := range pos {
		p, h := &pos[i], &e.s[i]
		delivered[i], fin[i] = p.Delivered, p.finDelivered()
		*h = half{received: p.Delivered, shipped: p.Delivered, delivered: p.Delivered, reported: p.Delivered}
		if Stream(i) == Response {
			h.received = p.Received
		}
		if p.Fin && (Stream(i) == Response || fin[i]) {
			h.fin, h.finAt = true, p.Received-1
		}
	}
	e.spliced = false
	a.room(recordRoom(r), now)
	a.cur.buf = wire.AppendTerminate(a.cur.buf, r, delivered, fin)
	a.mark(e)
	for i := range pos {
		a.shipAll(e, Stream(i), pos[i].Bytes, now)
		if _, follows := pos[i].size(); follows {
			a.ship(e, Stream(i), nil, true, now)
		}
	}
	if e.s[Response].received > 0 {
		e.since = now
		a.age.pushBack(e, connAge)
	}
}

// terminate replaces the record of a connection that was passed on.
func (s *standby) terminate(index uint64, k *kept, e *wire.Entry) error {
	if s.version < wire.TerminateVersion || !k.spliced || e.Record.Service != k.service {
		return ErrUnexpected
	}
	streams := s.streams(k)
	for i := range streams {
		d, fin := e.Delivered[i], e.FinDelivered[i]
		if fin && d == 0 {
			return ErrOffset
		}
		streams[i] = stored{base: d, delivered: d, end: d, fin: fin, finDelivered: fin}
	}
	s.setRecord(k, k.service, &e.Record.Client, &e.Record.Server)
	k.spliced = false
	s.settled(k)
	s.touch(k, index)
	return nil
}

// MayTerminate reports whether a connection that is passed on may be ended here without losing its protection.
func (c *Core) MayTerminate() bool { return !c.joined || c.act.version >= wire.TerminateVersion }
