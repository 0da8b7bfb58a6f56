package replication

import (
	"fmt"
	"math"

	"lockstep/replication/wire"
)

// standby is the store: what is needed to continue every protected connection.
type standby struct {
	lim   *Limits
	conns map[ConnID]*kept
	lru   list[kept] // live ones, most recent traffic first
	tombs list[kept] // finished ones, oldest first
	lives lives
	shared
	pool    chunkPool
	held    uint64 // sum of stored.bytes
	logged  int    // connections
	evicted uint64 // tombstones, not yet counted in Core.drops
	inSync  bool
	why     string // why not, if not
	failed  bool   // a batch could not be applied in this session

	version uint8 // of the session's frames
	due     int   // streams with stored.due, and keptLog.owed
	answers

	entry wire.Entry // scratch
}

// answers are what the active is to be told.
type answers struct {
	applied uint64 // index of the newest batch
	acked   uint64 // newest index that was acknowledged
	ackDue  bool
	// refused are connections dropped at a limit: those to be reported with the next
	// Ack, and all whose Close has not come yet, so that what is in flight for them is
	// no error. Bounded by what can be in flight.
	refused []ConnID
	ignored map[ConnID]struct{}
}

// kept is one connection in the store.
type kept struct {
	id ConnID
	compact
	log     *keptLog   // nil: a plain one whose server leg begins with the connection
	moving  *[2]stored // nil: both streams rest, see stored.rests
	rest    [2]uint64  // where, then
	touched uint64     // batch of its latest entry
	until   Nanos      // tombstone: when it is forgotten
	at      link[kept]
	dead    bool // tombstone
	spliced bool // passed on, see splice.go
}

func keptAt(k *kept) *link[kept] { return &k.at }

// maxNames bounds the table of service names.
const maxNames = 1024

// maxIgnored bounds what an active can make us remember by not closing what we
// refused. An honest one has at most what fits in its batches in flight.
const maxIgnored = 1 << 18

// recentBatches is how far back a connection's last traffic may lie for it to be
// continued before the idle ones.
const recentBatches = 64

func (s *standby) init(lim *Limits) {
	*s = standby{
		lim:     lim,
		conns:   make(map[ConnID]*kept),
		shared:  shared{names: make(map[string]string), ends: make(map[ends]*ends)},
		answers: answers{ignored: make(map[ConnID]struct{})},
		why:     "no session with an active yet",
	}
	s.lives.init()
}

// end keeps the store, but nothing that belongs to the session.
func (s *standby) end() {
	s.ackDue = false
	s.refused = s.refused[:0]
}

// apply takes one batch. After an error the store is empty and not in sync: an
// entry may be missing, so nothing in it can be trusted (invariant 5).
func (s *standby) apply(now Nanos, index uint64, payload []byte) error {
	if s.failed {
		return ErrNotInSync // nothing heals a session that has lost something
	}
	var err error = ErrIndex
	if index == s.applied+1 {
		err = s.applyEntries(now, index, payload)
	}
	if err != nil {
		s.init(s.lim)
		s.failed = true
		s.why = "a batch contradicted the store: " + err.Error()
		return err
	}
	s.applied = index
	s.ackDue = true
	return nil
}

func (s *standby) applyEntries(now Nanos, index uint64, payload []byte) error {
	es := wire.NewEntries(payload)
	es.Intern = s.intern
	e := &s.entry
	for n := 0; ; n++ {
		more, err := es.Next(e)
		if err == nil && more {
			err = s.applyEntry(now, index, e)
		}
		if err != nil {
			return fmt.Errorf("entry %d, connection %d: %w", n, e.ID, err)
		}
		if !more {
			return nil
		}
	}
}

func (s *standby) applyEntry(now Nanos, index uint64, e *wire.Entry) error {
	switch e.Kind {
	case wire.EntrySynced:
		if s.due > 0 {
			return ErrOffset // bytes of the snapshot are missing
		}
		s.inSync, s.why = true, ""
		return nil
	case wire.EntryOpen:
		_, err := s.open(index, e)
		return err
	case wire.EntrySplice:
		return s.splice(index, e)
	case wire.EntryAdopt:
		return s.adopt(index, e)
	case wire.EntryLife, wire.EntryDecided, wire.EntryForgotten, wire.EntryLifeOver:
		return s.applyLives(e)
	}
	k := s.conns[e.ID]
	if k == nil || k.dead {
		if _, refused := s.ignored[e.ID]; !refused {
			return ErrUnknownConn
		}
		if e.Kind == wire.EntryClose {
			delete(s.ignored, e.ID)
		}
		return nil
	}
	if e.Kind == wire.EntryTerminate {
		return s.terminate(index, k, e)
	}
	if k.spliced && e.Kind != wire.EntryClose {
		return ErrSpliced
	}
	err := s.entryOf(now, index, k, e)
	s.settled(k)
	return err
}

// open makes a record; it returns nil if a limit forbids it.
func (s *standby) open(index uint64, e *wire.Entry) (*kept, error) {
	if s.conns[e.ID] != nil {
		return nil, ErrDuplicate
	}
	if _, refused := s.ignored[e.ID]; refused {
		return nil, ErrDuplicate
	}
	if s.lru.n >= s.lim.MaxConns {
		return nil, s.refuse(e.ID)
	}
	r := &e.Record
	k := &kept{id: r.ID, touched: index}
	s.setRecord(k, r.Service, &r.Client, &r.Server)
	s.conns[e.ID] = k
	s.lru.pushFront(k, keptAt)
	return k, nil
}

// adopt makes the record of a connection that ran before the session. Its bytes
// follow as data; until they are here nothing can be in sync.
func (s *standby) adopt(index uint64, e *wire.Entry) error {
	if s.version < wire.AdoptVersion || s.inSync {
		return ErrUnexpected
	}
	for i := range e.Delivered {
		d, end, fin := e.Delivered[i], e.End[i], e.FinDelivered[i]
		if d > end || (fin && (d != end || d == 0)) {
			return ErrOffset
		}
	}
	k, err := s.open(index, e)
	if k == nil {
		return err
	}
	for i := range k.rest {
		t, fin := &s.streams(k)[i], e.FinDelivered[i]
		t.base, t.delivered, t.end = e.Delivered[i], e.Delivered[i], e.Delivered[i]
		t.fin, t.finDelivered = fin, fin
		if e.End[i] > t.end {
			t.due = e.End[i]
			s.due++
		}
	}
	s.settled(k)
	s.why = "snapshot is not complete"
	return nil
}

// settle notes that a stream's end has moved.
func (s *standby) settle(t *stored) {
	if t.due > 0 && t.end >= t.due {
		t.due = 0
		s.due--
	}
}

func (s *standby) touch(k *kept, index uint64) {
	k.touched = index
	if s.lru.first != k {
		s.lru.remove(k, keptAt)
		s.lru.pushFront(k, keptAt)
	}
}

func (s *standby) data(k *kept, e *wire.Entry) error {
	t := &s.streams(k)[e.Stream]
	n := uint64(len(e.Data))
	switch {
	case e.Off != t.end, t.end > math.MaxUint64-n-1:
		return ErrOffset
	case t.fin || t.finDelivered:
		return ErrFinPassed
	case e.Fin && e.Stream == Response && k.logged() && t.end+n < k.log.open.End:
		return ErrOffset
	case t.bytes()+n > s.lim.MaxHeldPerStream, s.held+n > s.lim.MaxHeldTotal:
		s.drop(k)
		return s.refuse(e.ID)
	}
	if e.Stream == Request && k.logged() && t.due == 0 {
		k.log.turns.Note(t.end, k.log.open.End)
	}
	t.append(&s.pool, e.Data)
	s.held += n
	if e.Fin {
		t.fin = true
		t.end++
	}
	s.settle(t)
	return nil
}

// deliver lets go of what the receivers have, but for a log. Request bytes were all
// shipped before they were delivered; a response's end moves along if they were not.
func (s *standby) deliver(k *kept, off [2]uint64, fin [2]bool) error {
	streams := s.streams(k)
	for i := range streams {
		if !streams[i].mayDeliver(Stream(i), off[i], fin[i]) {
			return ErrOffset
		}
	}
	if k.logged() {
		// The client cannot have what was not released, nor an end before that.
		d, end := off[Response], k.log.open.End
		if (fin[Response] && d != end+1) || (!fin[Response] && d > end) {
			return ErrOffset
		}
	}
	for i := range streams {
		t, d := &streams[i], off[i]
		s.letGo(t, k.low(Stream(i), d))
		t.delivered = d
		t.end = max(t.end, d)
		if fin[i] {
			t.fin, t.finDelivered = true, true
		}
		s.settle(t)
	}
	return nil
}

// letGo forgets what lies below an offset.
func (s *standby) letGo(t *stored, below uint64) {
	if below <= t.base {
		return
	}
	n := min(below-t.base, t.bytes())
	t.drop(&s.pool, n)
	s.held -= n
	t.base = below
}

// mayDeliver reports whether the receiver can have acknowledged up to d, with the
// FIN or without, given what we were told before.
func (t *stored) mayDeliver(s Stream, d uint64, fin bool) bool {
	switch {
	case d < t.delivered:
		return false
	case t.finDelivered:
		return fin && d == t.delivered
	case t.fin:
		return d <= t.end && fin == (d == t.end)
	case s == Request:
		return d <= t.end && !fin
	default:
		return !fin || d > t.end
	}
}

func (s *standby) close(now Nanos, k *kept, kind CloseKind) error {
	if kind != Finished {
		s.drop(k)
		return nil
	}
	if !k.spliced && (!k.stream(Request).finDelivered || !k.stream(Response).finDelivered) {
		return ErrOffset
	}
	s.unlog(k)
	s.lru.remove(k, keptAt)
	k.dead, k.until = true, now+s.lim.Linger
	if k.moving != nil {
		k.moving[0].chunks, k.moving[1].chunks = nil, nil
	}
	s.tombs.pushBack(k, keptAt)
	if s.tombs.n > s.lim.MaxTombstones {
		s.drop(s.tombs.first)
		s.evicted++
	}
	return nil
}

// drop forgets a connection.
func (s *standby) drop(k *kept) {
	delete(s.conns, k.id)
	if k.dead {
		s.tombs.remove(k, keptAt)
		return
	}
	s.unlog(k)
	s.lru.remove(k, keptAt)
	if k.moving == nil {
		return
	}
	for i := range k.moving {
		t := &k.moving[i]
		n := t.bytes()
		t.drop(&s.pool, n)
		s.held -= n
		if t.due > 0 {
			s.due--
		}
	}
	s.spareStreams(k)
}

// refuse remembers that the active must be told that we do not keep a connection.
func (s *standby) refuse(id ConnID) error {
	if len(s.ignored) >= maxIgnored {
		return ErrRefusals
	}
	s.refused = append(s.refused, id)
	s.ignored[id] = struct{}{}
	return nil
}

// intern returns a service's name without an allocation per connection.
func (s *standby) intern(b []byte) string {
	if name, ok := s.names[string(b)]; ok {
		return name
	}
	name := string(b)
	if len(s.names) < maxNames {
		s.names[name] = name
	}
	return name
}

// expire forgets old tombstones.
func (s *standby) expire(now Nanos) {
	for k := s.tombs.first; k != nil && k.until <= now; k = s.tombs.first {
		s.drop(k)
	}
}

func (s *standby) nextExpiry() Nanos {
	if s.tombs.first == nil {
		return Never
	}
	return s.tombs.first.until
}

// flush appends the newest acknowledgement. What was refused goes out before the
// index that covers it, in as many frames as it takes.
func (s *standby) flush(dst []byte, epoch uint64) []byte {
	if !s.ackDue {
		return dst
	}
	for len(s.refused) > wire.MaxRefused {
		dst = wire.AppendAck(dst, s.version, epoch, s.acked, s.refused[:wire.MaxRefused])
		s.refused = s.refused[:copy(s.refused, s.refused[wire.MaxRefused:])]
	}
	dst = wire.AppendAck(dst, s.version, epoch, s.applied, s.refused)
	s.refused = s.refused[:0]
	s.acked = s.applied
	s.ackDue = false
	return dst
}

func (s *standby) stats(st *Stats) {
	st.InSync, st.CanTakeOver, st.Why = s.inSync, s.inSync, s.why
	st.Connections, st.Tombstones = s.lru.n, s.tombs.n
	st.HeldBytes, st.Logged = s.held, s.logged
	st.Lives, st.DecidedBytes = s.lives.all.n, s.lives.size
	st.Batches = s.applied
}
