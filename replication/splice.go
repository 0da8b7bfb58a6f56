package replication

import "lockstep/replication/wire"

// A connection that is passed on between its two peers, not ended here, has a record and
// nothing else: each byte is acknowledged by its receiver, so none has to be kept by
// anybody in between, and the one rule of acknowledgement holds by construction. Its
// streams stay at offset 0 in all tables; whoever tells of bytes is refused. It begins,
// is told to a standby that joins, is continued and ends like any other. Finished leaves a
// tombstone: the last ACK may have been lost, and then a FIN and its ACK still have to be
// passed on.

// splice puts the record into the gathering batch. There must be room for recordRoom.
func (a *active) splice(e *conn, r *Record) {
	e.spliced = true
	e.s = [2]half{}
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
