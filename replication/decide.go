package replication

import "lockstep/replication/wire"

// Wrapped servers have to agree on determinants: the results of their calls that depend on more than the request. Who is
// asked first for one decides it; the pair keeps what was decided, and so is FT-TCP's stable buffer. A result is told to
// a server only when the standby holds it (Decision.Held, Ready.Held): then no byte that depends on it can have left
// any server before, and output commit holds without anybody holding a byte back (invariant 9).
//
// Determinants belong to lives. When a life begins and ends, who takes part, and what keys and values mean, others know.

// Decision is a determinant that is decided.
type Decision struct {
	Value []byte // must not be changed
	// Number is its place in the order of the life's decisions.
	Number uint64
	// Held: it may be told. Else Ready.Held tells when.
	Held bool
	// Epoch is that of the active which answers: numbers of another one are other decisions'.
	Epoch uint64
}

// Held tells that the decisions of a life whose numbers are smaller than Below, as of that epoch, may be told.
type Held struct {
	Life         LifeID
	Below, Epoch uint64
}

// BeginLife begins a life. Its name is for whoever continues it.
func (c *Core) BeginLife(now Nanos, id LifeID, name string) error {
	c.advance(now)
	a := &c.act
	switch {
	case c.role != RoleActive:
		return ErrRole
	case len(name) > wire.MaxLifeName:
		return ErrLimitLife
	case a.lives.byID[id] != nil:
		return ErrDuplicate
	case c.joined && a.version < wire.DecideVersion:
		c.drops[PeerVersion]++
		return ErrVersionLife
	case a.lives.all.n >= c.lim.MaxLives:
		c.drops[LimitLives]++
		return ErrLimitLife
	case a.pending() >= c.lim.MaxPending:
		c.drops[LimitPending]++
		return ErrLimitLife
	}
	if l := a.lives.begin(id, name); c.joined {
		a.tellLife(l, c.now)
	}
	return nil
}

// live is a life that the active has.
func (c *Core) live(now Nanos, id LifeID) (*life, error) {
	c.advance(now)
	if c.role != RoleActive {
		return nil, ErrRole
	}
	if l := c.act.lives.byID[id]; l != nil {
		return l, nil
	}
	return nil, ErrUnknownLife
}

// Decide returns what was decided for a key, which is the proposal if nobody asked before. An error says that nothing is: the server has
// a result of its own then, and whoever asks later gets another, if any. That is so at a limit, for good, and with a
// standby that does not know of determinants: one that took over could tell another result.
func (c *Core) Decide(now Nanos, id LifeID, key string, proposal []byte) (Decision, error) {
	l, err := c.live(now, id)
	if err != nil {
		return Decision{}, err
	}
	a := &c.act
	if d := l.find(key); d != nil {
		return Decision{d.value, d.number, d.number < l.held, c.epoch}, nil
	}
	d := wire.Decided{Life: id, Number: l.next, Key: []byte(key), Value: proposal}
	if err := c.mayDecide(l, &d); err != nil {
		return Decision{}, err
	}
	value := a.lives.add(l, key, proposal)
	if !c.joined {
		l.held = l.next
		return Decision{value, d.Number, true, c.epoch}, nil
	}
	if l.untold.in {
		a.tellLives(c.now) // this one with them, if its turn comes: the standby knows lives in their order, too
	} else {
		a.tellDecided(&d, c.now)
	}
	return Decision{value, d.Number, false, c.epoch}, nil
}

// mayDecide says why nothing more is decided, and counts it.
func (c *Core) mayDecide(l *life, d *wire.Decided) error {
	a, size := &c.act, sizeOf(len(d.Key), len(d.Value))
	switch {
	case c.joined && a.version < wire.DecideVersion:
		c.drops[PeerVersion]++
		return ErrVersionLife
	case l.full || !d.Fits() || l.size+size > c.lim.MaxDecidedPerLife || a.lives.size+size > c.lim.MaxDecidedTotal:
		l.full = true // what is forgotten makes room, but somebody has had a result of his own
		c.drops[LimitDecided]++
		return ErrLimitLife
	case c.joined && a.pending()+size > c.lim.MaxPending:
		l.full = true
		c.drops[LimitPending]++
		return ErrLimitLife
	}
	return nil
}

// Forget forgets a decision that nobody will ask for again: whoever had been told it has said, or shown, that he was.
func (c *Core) Forget(now Nanos, id LifeID, number uint64) error {
	l, err := c.live(now, id)
	if err != nil {
		return err
	}
	a := &c.act
	if !a.lives.forget(l, number) {
		return ErrUnknownLife
	}
	if a.told(l) {
		a.room(wire.MaxSmallEntry, c.now)
		a.cur.buf = wire.AppendForgotten(a.cur.buf, id, number)
	}
	return nil
}

// EndLife forgets a life. Nobody will ask for any of it again.
func (c *Core) EndLife(now Nanos, id LifeID) error {
	l, err := c.live(now, id)
	if err != nil {
		return err
	}
	a := &c.act
	told := a.told(l)
	a.lives.end(l)
	if told {
		a.room(wire.MaxSmallEntry, c.now)
		a.cur.buf = wire.AppendLifeOver(a.cur.buf, id)
	}
	a.proceed(c)
	return nil
}

// Lives calls f for each life, in the order in which they began. f must not change them.
func (c *Core) Lives(f func(id LifeID, name string)) {
	t := &c.act.lives
	if c.role == RoleStandby {
		t = &c.sb.lives
	}
	for l := t.all.first; l != nil; l = l.at.next {
		f(l.id, l.name)
	}
}

// DecidedHere returns what is decided for a key as far as this core knows, be it the active's or the standby's.
func (c *Core) DecidedHere(id LifeID, key string) (value []byte, ok bool) {
	t := &c.act.lives
	if c.role == RoleStandby {
		t = &c.sb.lives
	}
	if l := t.byID[id]; l != nil {
		if d := l.find(key); d != nil {
			return d.value, true
		}
	}
	return nil, false
}

// told reports whether the standby of this session knows a life.
func (a *active) told(l *life) bool {
	return a.joined && a.version >= wire.DecideVersion && !l.untold.in
}

// tellLife puts a life, with all that is decided in it, into the stream of batches.
func (a *active) tellLife(l *life, now Nanos) {
	a.lives.untold.remove(l, lifeUntold)
	a.room(wire.MaxSmallEntry, now)
	a.cur.buf = wire.AppendLife(a.cur.buf, l.id, l.name)
	for i := range l.decided {
		if d := &l.decided[i]; !d.forgotten {
			a.tellDecided(&wire.Decided{Life: l.id, Number: d.number, Key: []byte(d.key), Value: d.value}, now)
		}
	}
}

// tellDecided puts a decision there.
func (a *active) tellDecided(d *wire.Decided, now Nanos) {
	a.room(sizeOf(len(d.Key), len(d.Value)), now)
	a.cur.buf = wire.AppendDecided(a.cur.buf, d)
	b := a.cur
	if n := len(b.lives); n > 0 && b.lives[n-1].Life == d.Life {
		b.lives[n-1].Below = d.Number + 1
		return
	}
	b.lives = append(b.lives, Held{Life: d.Life, Below: d.Number + 1})
}

// tellLives tells a standby that has joined as many of the lives as may wait, and reports whether none is left.
func (a *active) tellLives(now Nanos) (all bool) {
	for a.lives.untold.first != nil && a.pending() <= adoptPending {
		a.tellLife(a.lives.untold.first, now)
	}
	return a.lives.untold.n == 0
}

// confirmLives takes the confirmation of a batch.
func (a *active) confirmLives(c *Core, b *batch) {
	for _, h := range b.lives {
		if l := a.lives.byID[h.Life]; l != nil && h.Below > l.held {
			l.held, h.Epoch = h.Below, c.epoch
			c.ready.Held = append(c.ready.Held, h)
		}
	}
}

// releaseLives ends a session: there is nobody else who could tell other results.
func (a *active) releaseLives(c *Core) {
	for l := a.lives.all.first; l != nil; l = l.at.next {
		if l.held < l.next {
			l.held = l.next
			c.ready.Held = append(c.ready.Held, Held{l.id, l.next, c.epoch})
		}
	}
	a.lives.queue(false)
}

// applyLives takes an entry about lives.
func (s *standby) applyLives(e *wire.Entry) error {
	d := &e.Decided
	l := s.lives.byID[d.Life]
	switch {
	case s.version < wire.DecideVersion:
		return ErrUnexpected
	case e.Kind == wire.EntryLife && l != nil:
		return ErrDuplicate
	case e.Kind == wire.EntryLife && s.lives.all.n >= s.lim.MaxLives:
		return ErrTold
	case e.Kind == wire.EntryLife:
		s.lives.begin(d.Life, e.LifeName)
		return nil
	case l == nil:
		return ErrUnknownLife
	case e.Kind == wire.EntryLifeOver:
		s.lives.end(l)
		return nil
	case e.Kind == wire.EntryForgotten:
		if !s.lives.forget(l, d.Number) {
			return ErrUnknownLife
		}
		return nil
	}
	size := sizeOf(len(d.Key), len(d.Value))
	switch {
	case d.Number < l.next, d.Number == maxNumber:
		return ErrOffset
	case l.find(string(d.Key)) != nil:
		return ErrDuplicate
	case l.size+size > s.lim.MaxDecidedPerLife, s.lives.size+size > s.lim.MaxDecidedTotal:
		return ErrTold
	}
	l.next = d.Number // those between were forgotten before we joined
	s.lives.add(l, string(d.Key), d.Value)
	return nil
}
