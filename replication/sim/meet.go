package sim

import (
	"lockstep/replication"
	"lockstep/replication/roles"
)

// said is what an appliance says of itself when a session is made.
type said struct {
	roles.Said
	at nanos // when it said so
}

// Sessions in a world without an oracle: each end begins, puts off and ends its session
// when its own role loop says so, and hears of the other's end some time later, or
// never.

// dialSoon tries to connect the two appliances, again and again.
func (w *world) dialSoon() {
	w.after(w.between(5*millis, 40*millis), func() {
		w.dial()
		w.dialSoon()
	})
}

func (w *world) dial() {
	a, b := w.nodes[0], w.nodes[1]
	if !a.alive || !b.alive || a.frozen || b.frozen || w.blocked(a.machine, b.machine) || w.blocked(b.machine, a.machine) ||
		a.live() {
		return // of two connections at once a keeps the older one
	}
	if b.live() {
		b.linked.close(b) // superseded
	}
	s := &session{w: w}
	s.connect(a, b)
	w.sessions = append(w.sessions, s)
	a.linked, b.linked = s, s
	ofA, ofB := a.shell.says(), b.shell.says()
	a.shell.loop(func() { a.shell.meet(s, ofA, ofB) })
	b.shell.loop(func() { b.shell.meet(s, ofB, ofA) })
}

// live: the newest session that was made has not ended at our side, be it taken by
// the role loop or not.
func (n *node) live() bool { return n.linked != nil && !n.linked.left[n.id] }

// to is the direction that n reads.
func (s *session) to(n *node) *pipe {
	if s.pipes[0].to == n {
		return s.pipes[0]
	}
	return s.pipes[1]
}

// read begins with what has arrived already.
func (s *session) read(n *node) { s.to(n).read() }

// ended: nothing can come of s at n any more.
func (s *session) ended(n *node) bool { return s.left[n.id] }

// close is n's. What it has written still arrives, and then the end.
func (s *session) close(n *node) {
	if s.left[n.id] {
		return
	}
	s.left[n.id] = true
	s.to(n).buf = nil
	if o := s.w.other(n); !s.left[o.id] {
		s.end(n, o)
	}
}

// end carries n's end to the other side.
func (s *session) end(n, o *node) {
	w := s.w
	p := s.to(o)
	w.after(max(p.last-w.now, 0)+w.between(100*micros, 2*millis), func() {
		switch {
		case n.dark:
		case w.blocked(n.machine, o.machine) || p.budget != 0 && len(p.inFlight) > 0:
			s.end(n, o)
		default:
			o.run(p.life, func() { o.closed(s) })
		}
	})
}

// closed hears that the other side has closed s.
func (n *node) closed(s *session) {
	if s.left[n.id] {
		return
	}
	if n.session == s {
		n.shell.sessionLost(s)
		return
	}
	s.left[n.id] = true
	n.shell.leave(s)
}

// broken ends all sessions of a process that has died: of what was on its way, some
// prefix still arrives. A host that is off says nothing any more.
func (w *world) broken(n *node) {
	kept := w.sessions[:0]
	for _, s := range w.sessions {
		p := s.to(w.other(n))
		if k := len(p.inFlight); k > 0 && !s.left[n.id] {
			p.budget = w.rng.IntN(k + 1)
		}
		s.close(n)
		if !s.left[w.other(n).id] {
			kept = append(kept, s)
		}
	}
	w.sessions = kept
	n.session = nil
}

// reset is a middlebox that ends the session while both live.
func (w *world) reset() {
	for _, n := range w.nodes {
		if s := n.session; s != nil && n.alive {
			n.run(n.life, func() { n.shell.sessionLost(s) })
		}
	}
}

// blocked: nothing gets from one to the other.
func (w *world) blocked(from, to *machine) bool {
	return w.cut[from.id][to.id] > 0 || to.dark || from.dark
}

// serves is who is the active and may speak, or nil.
func (w *world) serves() *node {
	if a := w.active(); a != nil && a.core.Role() == replication.RoleActive {
		return a
	}
	return nil
}
