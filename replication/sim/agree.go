package sim

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"lockstep/replication"
	"lockstep/replication/wire"
)

// Wrapped servers ask for determinants, one place after the other, whoever says that he is the active; without an answer they ask
// again, with another proposal. What concerns them is drawn apart, so that worlds without them stay what they were.

// agreeing is what a world knows of that.
type agreeing struct {
	rng      *rand.Rand
	subjects []*subject
}

// subject is a life as the servers know it.
type subject struct {
	name      string
	places    int                             // that each process asks for
	told      map[string]replication.Decision // looked up only
	tellers   map[*node]bool                  // looked up only; since the last takeover
	forgotten map[string]bool                 // looked up only
	processes []*wrapped
	lost      bool // nobody continues it
}

// wrapped is a process of a server. There are two of each server for a life, which ask for places of their own.
type wrapped struct {
	of    *subject
	n     int // server
	path  int
	next  int  // place
	alone bool // it has results of its own
}

// waiting is a server that waits for the standby to hold a decision.
type waiting struct {
	v     *wrapped
	place int
	life  replication.LifeID
	d     replication.Decision
}

// chooseAgreeing puts servers into two thirds of the worlds.
func (w *world) chooseAgreeing(cfg config) {
	if cfg.Seed/3%3 == 0 || cfg.Terminated {
		return
	}
	w.agreeing = &agreeing{rng: rand.New(rand.NewPCG(cfg.Seed, 3))}
	if w.agreeing.rng.IntN(6) == 0 {
		w.plan.limits.MaxDecidedPerLife, w.plan.limits.MaxLives = 1500, 3
		w.plan.standbyLimits.MaxDecidedPerLife, w.plan.standbyLimits.MaxLives = 1500, 3
	}
}

func (a *agreeing) between(lo, hi nanos) nanos { return lo + nanos(a.rng.Int64N(int64(hi-lo)+1)) }

// startAgreeing starts the servers.
func (w *world) startAgreeing() {
	a := w.agreeing
	if a == nil {
		return
	}
	for i := range 4 {
		s := &subject{name: fmt.Sprint("subject ", i), places: 3 + a.rng.IntN(30), told: map[string]replication.Decision{}, tellers: map[*node]bool{}, forgotten: map[string]bool{}}
		for j := range 4 {
			v := &wrapped{of: s, n: j / 2, path: j % 2}
			s.processes = append(s.processes, v)
			w.after(a.between(0, w.plan.span), func() { w.askAgain(v) })
		}
		a.subjects = append(a.subjects, s)
	}
	w.after(0, w.sweep)
}

func (s *subject) over() bool {
	return s.lost || !slices.ContainsFunc(s.processes, func(v *wrapped) bool { return !v.over() })
}

func (v *wrapped) over() bool { return v.alone || v.of.lost || v.next == v.of.places }

func (v *wrapped) key() string { return key(v.path, v.next) }

func key(path, place int) string { return fmt.Sprintf("place %d of %d", place, path) }

// askAgain asks one that says that he is the active, and later again if there is no answer.
func (w *world) askAgain(v *wrapped) {
	if v.over() {
		return
	}
	a, place := w.agreeing, v.next
	w.after(a.between(100*millis, 300*millis), func() {
		if v.next == place {
			w.askAgain(v)
		}
	})
	var actives []*node
	for _, n := range w.nodes {
		if n.alive && n.core.Role() == replication.RoleActive {
			actives = append(actives, n)
		}
	}
	if len(actives) == 0 {
		return
	}
	n := actives[a.rng.IntN(len(actives))]
	proposal := fmt.Appendf(nil, "server %d's, %x", v.n, a.rng.Uint64())
	n.serve(a.between(50*micros, millis), func() {
		if v.next == place { // a server has one connection: what it asked on an earlier one is not answered
			n.decide(v, proposal)
		}
	})
}

// lifeOf finds one by its name.
func (n *node) lifeOf(name string) (id replication.LifeID, ok bool) {
	n.core.Lives(func(l replication.LifeID, its string) {
		if its == name {
			id, ok = l, true
		}
	})
	return id, ok
}

// decide answers a question, or will.
func (n *node) decide(v *wrapped, proposal []byte) {
	if n.core.Role() != replication.RoleActive || v.over() {
		return
	}
	id, ok := n.lifeOf(v.of.name)
	if !ok {
		n.born++
		id = replication.LifeID(1<<63 | n.core.Epoch()<<32 | n.born)
		if err := n.sh.BeginLife(n.now(), id, v.of.name); err != nil {
			n.refuseResult(v, err)
			return
		}
	}
	d, err := n.sh.Decide(n.now(), id, v.key(), proposal)
	switch {
	case err != nil:
		n.refuseResult(v, err)
	case d.Held:
		n.answer(waiting{v, v.next, id, d})
	default:
		n.w.seen.ResultWaits++
		n.waiting = append(n.waiting, waiting{v, v.next, id, d})
	}
}

// refuseResult is for good.
func (n *node) refuseResult(v *wrapped, err error) {
	switch {
	case errors.Is(err, replication.ErrLimitLife):
		n.w.seen.ResultLimit++
	case errors.Is(err, replication.ErrVersionLife):
		n.w.seen.ResultOldPeer++
	default:
		n.call("decide", err)
	}
	v.alone = true
}

// Decided implements shell.Effects.
func (e effects) Decided(h replication.Held) {
	n := e.n
	var rest []waiting
	for _, q := range n.waiting {
		if q.life == h.Life && q.d.Epoch == h.Epoch && q.d.Number < h.Below {
			n.answer(q)
		} else {
			rest = append(rest, q)
		}
	}
	n.waiting = rest
}

// answer tells a result.
func (n *node) answer(q waiting) {
	w, v := n.w, q.v
	if v.next != q.place || v.over() {
		return
	}
	if n.silent() {
		w.pairSeen.ResultMute++ // what it holds alone others may have decided otherwise
		return
	}
	w.observeTold(n, q)
	w.after(w.agreeing.between(50*micros, millis), func() {
		if v.next != q.place || v.over() {
			return
		}
		v.next++
		w.forgetSome(v.of, q)
		w.after(w.agreeing.between(0, 20*millis), func() { w.askAgain(v) })
	})
}

// observeTold checks a result as it is told (invariant 9).
func (w *world) observeTold(n *node, q waiting) {
	s, key := q.v.of, q.v.key()
	if n.table.astray {
		return
	}
	was, again := s.told[key]
	if again && !bytes.Equal(was.Value, q.d.Value) {
		w.failf("%s: %s is %q for one server and %q for another (invariant 9)", s.name, key, was.Value, q.d.Value)
	}
	if again {
		w.seen.ResultAgain++
	}
	s.told[key], s.tellers[n] = q.d, true
	w.logf("%s: %s, %s is told to server %d: %q", n.name, s.name, key, q.v.n, q.d.Value)
	o := w.other(n)
	follows := o.alive && o.core.Role() == replication.RoleStandby && o.core.Epoch() == n.core.Epoch() && w.inSession() && o.core.Stats().CanTakeOver
	if !follows || w.plan.version < wire.DecideVersion {
		return
	}
	if held, ok := o.core.DecidedHere(q.life, key); !ok || !bytes.Equal(held, q.d.Value) {
		w.failf("%s: %s is told, %q, and the standby holds %q, %v (invariant 9)", s.name, key, q.d.Value, held, ok)
	}
}

// forgetSome forgets what the processes of both servers have, or not.
func (w *world) forgetSome(s *subject, q waiting) {
	key := key(q.v.path, q.place)
	for _, v := range s.processes {
		if v.path == q.v.path && !v.over() && v.next <= q.place {
			return
		}
	}
	n := w.active()
	if n == nil || s.forgotten[key] || w.agreeing.rng.IntN(2) == 0 {
		return
	}
	s.forgotten[key] = true
	n.serve(w.agreeing.between(0, millis), func() {
		if id, ok := n.lifeOf(s.name); ok && id == q.life && n.core.Role() == replication.RoleActive {
			w.seen.ResultForgotten++
			w.logf("%s: %s, %s is forgotten", n.name, s.name, key)
			n.call("forget", n.sh.Forget(n.now(), id, q.d.Number))
		}
	})
}

// sweep ends lives that nobody needs, now and then.
func (w *world) sweep() {
	if n := w.active(); n != nil {
		for _, s := range w.agreeing.subjects {
			if id, ok := n.lifeOf(s.name); ok && s.over() {
				n.call("end a life", n.sh.EndLife(n.now(), id))
			}
		}
	}
	w.after(w.agreeing.between(10*millis, 50*millis), w.sweep)
}

// observeLives compares what a successor holds with what was told.
func (w *world) observeLives(old *table, n *node) {
	if w.agreeing == nil {
		return
	}
	for _, s := range w.agreeing.subjects {
		if s.over() || len(s.told) == 0 {
			continue
		}
		if old.astray || w.plan.version < wire.DecideVersion {
			s.lost = true // such a standby knows of none
			continue
		}
		id, ok := n.lifeOf(s.name)
		if !ok {
			w.failf("%s is not continued, and results were told (invariant 9)", s.name)
		}
		for i := range 2 * s.places {
			key := key(i%2, i/2)
			d, told := s.told[key]
			if !told || s.forgotten[key] {
				continue
			}
			w.seen.ResultContinued++
			if held, ok := n.core.DecidedHere(id, key); !ok || !bytes.Equal(held, d.Value) {
				w.failf("%s: %s was told to be %q, the successor has %q, %v (invariant 9)", s.name, key, d.Value, held, ok)
			}
		}
		clear(s.tellers)
	}
}

// loseLives: nobody knows anything any more.
func (w *world) loseLives() {
	if w.agreeing == nil {
		return
	}
	for _, s := range w.agreeing.subjects {
		if !s.over() && len(s.told) > 0 {
			s.lost = true
			w.seen.LifeLost++
		}
	}
}

// loseLivesOf: two were active, and this one, which steps down, has told what the other one does not know.
func (w *world) loseLivesOf(n *node) {
	o := w.other(n)
	if w.agreeing == nil || !o.alive || o.core.Role() != replication.RoleActive {
		return
	}
	for _, s := range w.agreeing.subjects {
		if !s.over() && s.tellers[n] {
			s.lost = true
			w.seen.LifeLost++
		}
	}
}

// agreed: nobody asks any more, and nothing is left.
func (w *world) agreed(st, sb *replication.Stats) bool {
	if w.agreeing == nil {
		return true
	}
	for _, s := range w.agreeing.subjects {
		if !s.over() {
			return false
		}
	}
	if st.Lives == 0 && (sb.Lives > 0 || st.DecidedBytes+sb.DecidedBytes > 0) {
		w.failf("no life is left, and the active has %d bytes, the standby %d lives of %d bytes", st.DecidedBytes, sb.Lives, sb.DecidedBytes)
	}
	return st.Lives == 0
}
