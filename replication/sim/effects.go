package sim

import (
	"lockstep/replication"
	shellpkg "lockstep/replication/shell"
)

// A node's core is in the shell that it has in the product; what that wants of clocks,
// goroutines and connections is done here.

// pump is called after every event: what the arbiter of an oracle world has to know.
func (n *node) pump() {
	if n.alive && n.shell == nil && n.core.Role() == replication.RoleActive && n.core.Stats().CanTakeOver {
		n.w.arbiter.InSync(n)
	}
}

// host implements shell.Host.
type host struct{ n *node }

// Kick runs the shell a little later: a goroutine has to be woken.
func (h host) Kick() {
	n := h.n
	if n.running {
		return
	}
	n.running = true
	n.later(n.w.between(0, 100*micros), func() {
		n.running = false
		n.sh.Run(n.now())
		n.pump()
	})
}

func (h host) Wake(at replication.Nanos) { h.n.schedule(at) }

func (h host) Heard(shellpkg.News) {
	if h.n.shell != nil {
		h.n.driver.look()
	}
}

func (h host) MayTakeOver() {
	if h.n.shell != nil {
		h.n.driver.look()
	}
}

// schedule arranges the next Tick.
func (n *node) schedule(at nanos) {
	n.tickAt = at
	if at == replication.Never {
		return
	}
	n.later(max(at-n.now(), 10*micros), func() {
		if n.tickAt == at {
			n.tick()
		}
	})
}

func (n *node) tick() {
	n.bear()
	g := n.sh.Tick(n.now(), n.clock())
	n.schedule(n.sh.Due())
	if g.Silent && n.session != nil {
		n.w.logf("%s finds its peer silent", n.name)
		n.w.seen.Silent++
		if n.shell == nil {
			n.session.cut()
		} else {
			n.shell.sessionLost(n.session)
		}
	}
	n.pump()
}

// sender implements shell.Sender: one end of a session.
type sender struct {
	n *node
	s *session
}

func (x sender) Send(frames []byte) error {
	x.s.send(x.n, frames)
	return nil
}

// effects implements shell.Effects.
type effects struct{ n *node }

func (e effects) Unprotect(id replication.ConnID) {
	n := e.n
	g := n.conns[id]
	if g == nil || n.fenced() {
		return
	}
	n.w.logf("%s: flow %d unprotected", n.name, g.f.n)
	if g.unprotected {
		n.w.failf("flow %d loses its protection twice", g.f.n)
	}
	g.unprotected = true
	n.w.seen.Unprotected++
	n.ack(g, replication.Request)
	n.ack(g, replication.Response)
}

func (e effects) Unlogged(id replication.ConnID) {
	if g := e.n.conns[id]; g != nil {
		e.n.w.logf("%s: flow %d has outgrown its log", e.n.name, g.f.n)
		e.n.w.seen.LogLimit++
		e.n.forgetLog(g)
	}
}

func (e effects) Opened(id replication.ConnID) {
	g := e.n.conns[id]
	if g == nil {
		return
	}
	if g.opened {
		e.n.w.failf("flow %d is opened twice", g.f.n)
	}
	g.opened = true
	e.n.synAck(g)
}

func (e effects) LegHeld(id replication.ConnID) {
	n := e.n
	g := n.conns[id]
	if g == nil {
		return
	}
	if !g.legWaits && !g.finished {
		n.w.failf("flow %d: a leg is announced that was not told", g.f.n)
	}
	g.legWaits = false
	if n.fenced() {
		return // released because it is deposed: mute, as with Unprotect
	}
	g.hist.legHeld = len(g.hist.legs) - 1
	n.w.seen.LegHeld++
	for s := range g.s {
		n.forward(g, replication.Stream(s), g.s[s].una)
	}
}

func (e effects) Permit(p replication.Permit) {
	g := e.n.conns[p.ID]
	if g == nil {
		return
	}
	st := &g.s[p.Stream]
	if g.spliced || p.Off <= st.permit {
		e.n.w.failf("flow %d: permit of %v goes from %d to %d", g.f.n, p.Stream, st.permit, p.Off)
	}
	st.permit = p.Off
	st.gate = max(st.gate, p.Off)
	e.n.ack(g, p.Stream)
}

func (e effects) Need(r replication.Range) {
	if g := e.n.conns[r.ID]; g != nil && !g.gone {
		if g.spliced {
			e.n.w.failf("flow %d is spliced, and bytes of it are asked for", g.f.n)
		}
		e.n.handIn(g, r)
	}
}

func (e effects) Adopt(id replication.ConnID) {
	n := e.n
	if g := n.conns[id]; g != nil {
		n.serve(n.w.between(0, millis), func() { n.adopt(g) })
	}
}
