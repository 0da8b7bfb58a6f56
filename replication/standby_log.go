package replication

import "lockstep/replication/wire"

// keptLog is what the store keeps of a connection that is logged, or whose server leg
// does not begin where the connection does. Plain ones have none, so they cost nothing.
type keptLog struct {
	start      [2]uint64 // Record.Start
	logged     bool
	checkpoint [2]uint64
	closed     []Segment // from the checkpoint on
	open       Segment
	turns      Turns
	stateLen   uint8
	state      [wire.MaxState]byte
	// owed, of an adopted connection: segments up to what is delivered have not come
	// yet. It counts in standby.due.
	owed bool
}

// logOf returns k's, new if need be.
func (k *kept) logOf() *keptLog {
	if k.log == nil {
		k.log = new(keptLog)
	}
	return k.log
}

func (k *kept) logged() bool { return k.log != nil && k.log.logged }

// record puts together what Open or Adopt and later server legs have said.
func (k *kept) record() Record {
	r := Record{ID: k.id, Service: k.service, Spliced: k.spliced}
	r.Client, r.Server = k.records()
	if k.log != nil {
		r.Logged, r.Start = k.log.logged, k.log.start
	}
	return r
}

// low is from where on stream i is kept when its receiver has acknowledged up to d.
func (k *kept) low(i Stream, d uint64) uint64 {
	if i == Request && k.logged() {
		return min(d, k.log.checkpoint[Request])
	}
	return d
}

// applyLog takes an entry of version 3 for a connection that is kept.
func (s *standby) applyLog(index uint64, k *kept, e *wire.Entry) error {
	if s.version < wire.LogVersion {
		return ErrUnexpected
	}
	l := k.log
	switch e.Kind {
	case wire.EntryLeg:
		return s.serverLeg(k, e)
	case wire.EntryLog:
		return s.beginLog(k, e.Checkpoint)
	}
	if !k.logged() {
		return ErrUnexpected
	}
	s.touch(k, index)
	switch e.Kind {
	case wire.EntryReleased:
		return s.released(k, l, &e.Released)
	case wire.EntryCheckpoint:
		return s.checkpoint(k, l, e.Checkpoint)
	case wire.EntryUnlog:
		s.unlog(k)
		return nil
	}
	return wire.ErrEntry
}

// serverLeg replaces the leg; positions stay, they are the connection's.
func (s *standby) serverLeg(k *kept, e *wire.Entry) error {
	req, resp := k.stream(Request), k.stream(Response)
	if e.Start[Request] > max(req.end, req.due) || e.Start[Response] > resp.delivered {
		return ErrOffset
	}
	client, _ := k.records()
	s.setRecord(k, k.service, &client, &e.Record.Server)
	if k.log != nil || e.Start != [2]uint64{} {
		k.logOf().start = e.Start
	}
	return nil
}

// beginLog comes right behind the record: of the request nothing is here yet.
func (s *standby) beginLog(k *kept, checkpoint [2]uint64) error {
	req, resp := k.stream(Request), k.stream(Response)
	switch {
	case k.logged(), req.end != req.base, req.fin:
		return ErrUnexpected
	case checkpoint[Request] < req.delivered, checkpoint[Request] > max(req.end, req.due),
		checkpoint[Response] > resp.delivered:
		return ErrOffset
	}
	l := k.logOf()
	l.logged, l.checkpoint = true, checkpoint
	l.open.End = checkpoint[Response]
	if resp.deliveredData() > l.open.End {
		l.owed = true
		s.due++
	}
	s.logged++
	return nil
}

func (s *standby) released(k *kept, l *keptLog, r *Released) error {
	resp := k.stream(Response)
	if r.End < l.open.End || (r.Cut && r.End == l.openFrom()) || (resp.fin && r.End >= resp.end) {
		return ErrOffset
	}
	if r.Cut && len(l.closed)+2 > maxSegments {
		return ErrSegments
	}
	l.open = Segment{r.End, r.Sum}
	l.stateLen = uint8(copy(l.state[:], r.State))
	if r.Cut {
		l.closed = append(l.closed, l.open)
		l.open.Sum = Digest{}
	}
	if l.owed && l.open.End >= resp.deliveredData() {
		l.owed = false
		s.due--
	}
	return nil
}

// openFrom is where the open segment begins.
func (l *keptLog) openFrom() uint64 {
	if n := len(l.closed); n > 0 {
		return l.closed[n-1].End
	}
	return l.checkpoint[Response]
}

func (s *standby) checkpoint(k *kept, l *keptLog, off [2]uint64) error {
	req, resp := &s.streams(k)[Request], k.stream(Response)
	if off[Request] < l.checkpoint[Request] || off[Request] > req.dataEnd() ||
		off[Response] > resp.deliveredData() {
		return ErrOffset
	}
	gone := 0
	for at := l.checkpoint[Response]; at != off[Response]; gone++ {
		if gone == len(l.closed) {
			return ErrOffset // no cut
		}
		at = l.closed[gone].End
	}
	l.closed = l.closed[:copy(l.closed, l.closed[gone:])]
	l.checkpoint = off
	l.turns.Forget(off[Request])
	s.letGo(req, k.low(Request, req.delivered))
	return nil
}

// unlog makes k a plain connection; only what it has of its server leg stays.
func (s *standby) unlog(k *kept) {
	if !k.logged() {
		return
	}
	if k.log.owed {
		s.due--
	}
	s.logged--
	start := k.log.start
	k.log = nil
	if start != [2]uint64{} {
		k.log = &keptLog{start: start}
	}
	req := &s.streams(k)[Request]
	s.letGo(req, req.delivered)
}

// handLog returns the log of a logged connection; request are its bytes from base
// on.
func (k *kept) handLog(request [][]byte, base uint64) *Log {
	l := k.log
	return &Log{
		Checkpoint: l.checkpoint,
		Bytes:      cutFront(request, l.checkpoint[Request]-base),
		Segments:   append(l.closed, l.open),
		State:      l.state[:l.stateLen],
		Turns:      l.turns,
	}
}

// cutFront returns b without its first n bytes, in a slice of its own.
func cutFront(b [][]byte, n uint64) [][]byte {
	for i, x := range b {
		if n < uint64(len(x)) {
			rest := append([][]byte(nil), b[i:]...)
			rest[0] = x[n:]
			return rest
		}
		n -= uint64(len(x))
	}
	return nil
}

// checkLog verifies what must hold of a logged connection.
func (k *kept) checkLog(inSync bool) error {
	l, req, resp := k.log, k.stream(Request), k.stream(Response)
	switch {
	case l.checkpoint[Request] > max(req.dataEnd(), req.due), l.checkpoint[Response] > resp.deliveredData():
		return broken("checkpoint %v, request up to %d, response delivered up to %d", l.checkpoint, req.end, resp.delivered)
	case l.owed != (resp.deliveredData() > l.open.End), l.owed && inSync:
		return broken("delivered %d, released %d, owed %v", resp.delivered, l.open.End, l.owed)
	case len(l.closed)+1 > maxSegments:
		return broken("%d segments", len(l.closed)+1)
	}
	at := l.checkpoint[Response]
	for _, g := range l.closed {
		if g.End <= at {
			return broken("segment from %d to %d", at, g.End)
		}
		at = g.End
	}
	if l.open.End < at {
		return broken("open segment from %d to %d", at, l.open.End)
	}
	return l.turns.check(max(req.end, req.due), l.open.End)
}
