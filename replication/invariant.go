package replication

import (
	"cmp"
	"fmt"
)

// Check verifies everything that must hold between two calls. It walks the whole
// table: for tests, the simulation and fuzzing. The cheap part, that no permit
// exceeds what was received or confirmed, is always on (active.confirm).
func (c *Core) Check() error {
	if err := c.act.check(c.joined && c.role == RoleActive); err != nil {
		return fmt.Errorf("active: %w", err)
	}
	if err := c.sb.check(); err != nil {
		return fmt.Errorf("standby: %w", err)
	}
	if c.role != RoleStandby && len(c.sb.conns) > 0 {
		return fmt.Errorf("store of %d connections as %v: %w", len(c.sb.conns), c.role, ErrInvariant)
	}
	if c.role != RoleActive && len(c.act.conns) > 0 {
		return fmt.Errorf("table of %d connections as %v: %w", len(c.act.conns), c.role, ErrInvariant)
	}
	return nil
}

// broken is an invariant that does not hold.
func broken(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvariant, fmt.Sprintf(format, args...))
}

func (a *active) check(joined bool) error {
	if err := cmp.Or(a.checkConns(joined), a.lives.check(joined), a.snap.check(a)); err != nil {
		return err
	}
	return a.checkBatches()
}

func (a *active) checkConns(joined bool) error {
	if a.joined != joined {
		return broken("joined is %v, table says %v", joined, a.joined)
	}
	var protected, unprotected, ended, aging, logged, n int
	var held uint64
	if a.none != [2]half{} {
		return broken("of streams that nothing is said of: %+v", a.none)
	}
	for e := a.all.first; e != nil; e = e.all.next {
		n++
		if a.conns[e.id] != e {
			return broken("connection %d is listed but not in the table", e.id)
		}
		mine := e.session == a.session
		switch {
		case e.ended:
			ended++
		case mine && e.state <= stateOpen:
			protected++
			held += e.s[0].store() + e.s[1].store()
		default:
			unprotected++
		}
		if mine && !joined {
			return broken("connection %d is protected without a standby", e.id)
		}
		if e.age.in {
			aging++
			if !mine || e.state > stateOpen {
				return broken("connection %d ages in state %d", e.id, e.state)
			}
		}
		if e.log != nil {
			logged++
			if err := e.checkLog(); err != nil || !mine || e.state > stateOpen {
				return fmt.Errorf("connection %d in state %d, ours %v, is logged: %w", e.id, e.state, mine, cmp.Or(err, error(ErrInvariant)))
			}
		}
		if (e.log != nil) != e.s[Request].keeps || (e.log != nil) != e.s[Response].capped {
			return broken("connection %d: log %v, offsets %+v", e.id, e.log != nil, *e.s)
		}
		if !mine {
			continue
		}
		if err := e.checkStreams(); err != nil {
			return err
		}
		if h := &e.s[Response]; e.state <= stateOpen && e.age.in != (h.received > h.permit) {
			return broken("connection %d: received %d, permit %d, aging %v", e.id, h.received, h.permit, e.age.in)
		}
	}
	if n != len(a.conns) || protected != a.protected || unprotected != a.unprotected || held != a.held || aging != a.age.n {
		return broken("counted %d (%d protected, %d unprotected, %d ended, %d bytes, %d aging), kept %d (%d, %d, %d bytes, %d)",
			n, protected, unprotected, ended, held, aging, len(a.conns), a.protected, a.unprotected, a.held, a.age.n)
	}
	if logged != a.logged {
		return broken("%d logged connections, kept %d", logged, a.logged)
	}
	for e := a.age.first; e != nil && e.age.next != nil; e = e.age.next {
		if e.since > e.age.next.since {
			return broken("connections %d, %d age out of order", e.id, e.age.next.id)
		}
	}
	return nil
}

// checkStreams verifies the offsets: one that is passed on has none, so one whose plain record was told is not passed on.
func (e *conn) checkStreams() error {
	if e.spliced && (e.log != nil || *e.s != [2]half{}) {
		return broken("connection %d is passed on, and has offsets %+v, log %v", e.id, *e.s, e.log != nil)
	}
	for i := range e.s {
		if err := e.s[i].check(Stream(i), e.allowed(Stream(i))); err != nil {
			return fmt.Errorf("connection %d, %v: %w", e.id, Stream(i), err)
		}
	}
	return nil
}

// checkLog verifies what log.go says of a logged connection.
func (e *conn) checkLog() error {
	l, req, resp := e.log, &e.s[Request], &e.s[Response]
	switch {
	case req.logAt > req.dataEnd(), l.checkpoint > resp.reported, l.start() > resp.logAt,
		len(l.cuts)+1 > maxSegments:
		return broken("checkpoint %d, %d, released %d, cuts %v, offsets %+v", req.logAt, l.checkpoint, resp.logAt, l.cuts, *e.s)
	}
	at := l.checkpoint
	for _, end := range l.cuts {
		if end <= at {
			return broken("cuts %v above %d", l.cuts, l.checkpoint)
		}
		at = end
	}
	if l.news && !e.dirty {
		return broken("news of the log, and not due to be told")
	}
	return nil
}

func (h *half) check(s Stream, allowed uint64) error {
	switch {
	case h.known > h.reported, h.reported > h.safe(), h.held > h.shipped, h.shipped > h.received,
		h.reported > h.shipped:
	case h.permit != allowed, h.permit > h.received:
	case s == Request && h.received != h.shipped:
	case h.fin && h.received > h.finAt+1:
	default:
		return nil
	}
	return broken("offsets %+v", *h)
}

func (a *active) checkBatches() error {
	lag, waiting, index := uint64(0), 0, a.acked
	for i, q := range [2]*queue{&a.inflight, &a.sealed} {
		for _, b := range q.b[q.head:] {
			index++
			lag += b.data
			if i == 1 {
				waiting += len(b.buf)
			}
			if b.index != index {
				return broken("batch %d where %d was due", b.index, index)
			}
		}
	}
	lag += a.cur.data
	if a.cur.index != index+1 || lag != a.lag || waiting != a.waiting {
		return broken("gathering batch %d after %d, lag %d (kept %d), waiting %d (kept %d)",
			a.cur.index, index, lag, a.lag, waiting, a.waiting)
	}
	if a.inflight.len() > a.lim.MaxOutstandingDigests {
		return broken("%d batches in flight", a.inflight.len())
	}
	return nil
}

func (s *standby) check() error {
	var n, due, logged int
	var held uint64
	for k := s.lru.first; k != nil; k = k.at.next {
		n++
		if s.conns[k.id] != k || k.dead {
			return broken("connection %d is listed as live", k.id)
		}
		for i := range k.rest {
			t := k.stream(Stream(i))
			held += t.bytes()
			if t.due > 0 {
				due++
			}
			if err := t.check(); err != nil {
				return fmt.Errorf("connection %d, %v: %w", k.id, Stream(i), err)
			}
			if t.base != k.low(Stream(i), t.delivered) {
				return broken("connection %d, %v: kept from %d, delivered %d, log %+v", k.id, Stream(i), t.base, t.delivered, k.log)
			}
		}
		if k.logged() {
			logged++
			if k.log.owed {
				due++
			}
			if err := k.checkLog(s.inSync); err != nil {
				return fmt.Errorf("connection %d: %w", k.id, err)
			}
		}
	}
	for k := s.tombs.first; k != nil; k = k.at.next {
		n++
		if s.conns[k.id] != k || !k.dead {
			return broken("connection %d is listed as a tombstone", k.id)
		}
	}
	if err := s.lives.check(true); err != nil {
		return err
	}
	if due != s.due || (s.inSync && due > 0) {
		return broken("%d adopted streams lack bytes, kept %d, in sync %v", due, s.due, s.inSync)
	}
	if logged != s.logged {
		return broken("%d logged connections, kept %d", logged, s.logged)
	}
	if n != len(s.conns) || held != s.held || (s.inSync && s.why != "") {
		return broken("counted %d with %d bytes, kept %d with %d, in sync %v %q", n, held, len(s.conns), s.held, s.inSync, s.why)
	}
	return nil
}

func (t *stored) check() error {
	if t.due > 0 && t.due <= t.end {
		return broken("bytes up to %d are due, and here up to %d", t.due, t.end)
	}
	if t.base > t.delivered || t.delivered > t.end || (t.finDelivered && (!t.fin || t.delivered != t.end)) ||
		(t.fin && !t.finDelivered && t.delivered == t.end) {
		return broken("delivered %d of %d, fin %v, fin delivered %v", t.delivered, t.end, t.fin, t.finDelivered)
	}
	var n uint64
	for _, c := range t.chunks {
		n += uint64(len(c))
	}
	if n-uint64(t.skip) != t.bytes() {
		return broken("%d bytes in chunks, %d expected", n-uint64(t.skip), t.bytes())
	}
	return nil
}
