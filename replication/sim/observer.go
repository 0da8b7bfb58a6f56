package sim

import (
	"fmt"
	"strings"

	"lockstep/replication"
)

// Sometimes counts what a set of seeds must have met at least once; otherwise the
// simulation does not test what it claims to.
type Sometimes struct {
	CrashActive, Deposed, Released, StartedEmpty, SecondTakeover int
	NotInSync                                                    int
	HeldRequest, HeldResponse, FinHeld, HalfClosed, Tombstone    int
	MidOpen, Idle, BytesLostWithActive, PeerAhead                int
	Need, Unprotected, LimitStream, LimitConns, LimitPending     int
	Adopted, AdoptRefused, AdoptedContinued, ContinuedAgain      int
	SnapshotCut, RefusedInSnapshot, CrashInSnapshot              int
	LogContinued, AdoptedLogContinued, UnlogContinued            int
	CheckpointContinued, ReleasedAhead, LogLimit                 int
	LegHeld, LegContinued                                        int
	Refused, Flipped, Silent, Aborted, ClockKnown, LostFlow      int
	SplicedContinued, SplicedTombstone, SplicedContinuedAgain    int
	SplicedAdopted, SplicedOldPeer, SplicedWoken                 int
	ResultWaits, ResultAgain, ResultContinued, ResultForgotten   int
	ResultLimit, ResultOldPeer, LifeLost                         int
}

// observeAck checks an ACK as it leaves (invariant 2).
func (w *world) observeAck(n *node, g *gwConn, s replication.Stream, off uint64) {
	f := g.f
	if n.table.astray {
		g.s[s].told = max(g.s[s].told, off)
		return
	}
	if off < f.acked[s] {
		w.failf("flow %d: ACK of %v goes back from %d to %d", f.n, s, f.acked[s], off)
	}
	if off > f.acked[s] {
		w.logf("%s: flow %d %v ack %d", n.name, f.n, s, off)
	}
	f.acked[s] = off
	g.s[s].told = max(g.s[s].told, off)
	if off == 0 || g.unprotected {
		return
	}
	o := w.other(n)
	if off <= g.s[s].gate && w.inSnapshot(o, g) {
		return // said before it was adopted
	}
	if !o.alive || o.core.Role() != replication.RoleStandby || o.core.Epoch() != n.core.Epoch() || !w.inSession() {
		return // the witness is gone; what was permitted before may still be said
	}
	if d, c, ok := o.core.Stored(g.id, s); ok && off > max(d, c) {
		w.failf("flow %d: %v is acknowledged up to %d, the standby holds %d and knows of %d", f.n, s, off, c, d)
	} else if !ok && w.knows(n, g) {
		w.failf("flow %d: %v is acknowledged up to %d, the standby does not know the connection", f.n, s, off)
	}
}

// observeSynAck checks a SYN-ACK as it leaves (invariant 1).
func (w *world) observeSynAck(n *node, g *gwConn) {
	g.f.synAcked = true
	w.mustBeHeld(n, g, "SYN-ACK")
}

// observeForward checks bytes on their way to a peer (invariant 3).
func (w *world) observeForward(n *node, g *gwConn, s replication.Stream) {
	w.mustBeHeld(n, g, fmt.Sprintf("%v byte", s))
}

// knows: the active relies on the standby's having the connection. Not so while it
// takes its protection back, nor in worlds where the standby's limits are lower: it
// may have dropped the connection a moment ago. (Then it does not continue it, either.)
func (w *world) knows(n *node, g *gwConn) bool {
	return n.core.Protected(g.id) && !w.plan.unequal
}

// inSnapshot: g is adopted for the standby o, which can not take over yet.
func (w *world) inSnapshot(o *node, g *gwConn) bool {
	return g.adopted && o.alive && o.core.Role() == replication.RoleStandby && !o.core.Stats().CanTakeOver
}

func (w *world) mustBeHeld(n *node, g *gwConn, what string) {
	if n.table.astray {
		return
	}
	o := w.other(n)
	if w.inSnapshot(o, g) {
		return
	}
	if g.unprotected || !w.inSession() || !o.alive || o.core.Epoch() != n.core.Epoch() {
		return
	}
	if _, _, ok := o.core.Stored(g.id, replication.Request); !ok && w.knows(n, g) {
		w.failf("flow %d: %s leaves, the standby has no record", g.f.n, what)
	}
}

// observeContinue compares what the standby continues with what the world knows.
func (w *world) observeContinue(old *table, g *gwConn, k *replication.Continue) {
	f := g.f
	if was := old.conns[g.id]; was == nil {
		w.failf("flow %d: a connection is continued that never was", f.n)
	} else {
		if was.unprotected || was.loose {
			w.failf("flow %d: an unprotected connection is continued (invariant 5)", f.n)
		}
		if was.adopted {
			w.seen.AdoptedContinued++
		}
		if g.continued = was.continued + 1; g.continued > 1 {
			w.seen.ContinuedAgain++
		}
		if g.continued > 2 {
			w.pairSeen.ContinuedThird++
		}
		for i := range g.s {
			if was.s[i].rcv > g.s[i].rcv {
				w.seen.BytesLostWithActive++
			}
		}
	}
	if k.Finished {
		w.seen.Tombstone++
	}
	ends := [2]*endpoint{f.client, f.server}
	for i, e := range ends {
		st := &k.Streams[i]
		s := replication.Stream(i)
		live := !f.aborted && !f.lost && !old.astray && e.inc == serverInc(e, g)
		if live && f.acked[i] > st.Held {
			w.failf("flow %d: %v was acknowledged up to %d, only %d is held", f.n, s, f.acked[i], st.Held)
		}
		if r := ends[1-i]; live && st.Delivered > r.rcv {
			w.failf("flow %d: %v delivered up to %d, its receiver has %d", f.n, s, st.Delivered, r.rcv)
		}
		for j, b := range g.s[i].buf {
			if off := st.Delivered + uint64(j); b != pattern(f.n, s, off) {
				w.failf("flow %d: %v byte %d is wrong in the store", f.n, s, off)
				break
			}
		}
		if len(g.s[i].buf) > 0 {
			if s == replication.Request {
				w.seen.HeldRequest++
			} else {
				w.seen.HeldResponse++
			}
		}
		if st.Fin && !st.FinDelivered {
			w.seen.FinHeld++
		}
		if st.FinDelivered && !k.Streams[1-i].Fin {
			w.seen.HalfClosed++
		}
	}
	if !f.client.established {
		w.seen.MidOpen++
	}
	if k.Streams[0].Held+k.Streams[1].Held == 0 {
		w.seen.Idle++
	}
}

// serverInc is the incarnation that an endpoint must have to belong to g.
func serverInc(e *endpoint, g *gwConn) uint32 {
	if e.isClient {
		return 0
	}
	return g.inc
}

// lose settles what becomes of the connections of the old active that its successor
// does not continue: allowed only if they were not protected, or if nobody had been
// told anything on them.
func (w *world) lose(old *table, successor *node) {
	for _, g := range old.ordered {
		f := g.f
		if successor.conns[g.id] != nil || successor.rests(g) || f.over() || g.gone {
			continue
		}
		if f.said() && old.protected(g) && !w.plan.unequal {
			w.failf("flow %d was protected and is not continued (acknowledged %v)", f.n, f.acked)
		}
		w.loseFlow(f)
	}
}

// inSession: the two appliances are connected with each other.
func (w *world) inSession() bool {
	if w.arbiter != nil {
		return w.session != nil
	}
	s := w.nodes[0].session
	return s != nil && s == w.nodes[1].session
}

// protected: the standby was to continue g, and nobody has begun to take that back.
func (t *table) protected(g *gwConn) bool {
	return !g.unprotected && !g.loose && !g.dropped && (t.closed || t.core.Protected(g.id))
}

// loseAll: both appliances have died, or the only one that knew anything.
func (w *world) loseAll() {
	for _, f := range w.flows {
		if !f.over() {
			w.loseFlow(f)
		}
	}
	w.loseLives()
}

// loseFlow resets a flow, unless its client has not been told anything yet and will
// simply try again.
func (w *world) loseFlow(f *flow) {
	if f.said() {
		f.lost = true
		w.seen.LostFlow++
		w.logf("flow %d is lost, it was not protected", f.n)
	}
}

// said: an appliance has told a peer something that binds its successor.
func (f *flow) said() bool { return f.synAcked || f.acked[0]+f.acked[1] > 0 }

// over: nothing more is expected of f.
func (f *flow) over() bool { return f.done() || f.lost || f.aborted }

// check looks at the cores after every step.
func (w *world) check() {
	for _, n := range w.nodes {
		if !n.alive {
			continue
		}
		if err := n.core.Check(); err != nil {
			w.failf("%s: %v", n.name, err)
		}
	}
}

// converged: every flow that was not lost has come to its end, the pair is whole,
// and nothing is left of anything.
func (w *world) converged() bool {
	for _, f := range w.flows {
		if !f.over() {
			return false
		}
	}
	a := w.active()
	if a == nil || !w.inSession() || !a.core.Stats().CanTakeOver {
		return false
	}
	st, sb := a.core.Stats(), w.other(a).core.Stats()
	if st.LagBytes > 0 || st.Outstanding > 0 || a.core.Flushable() || w.other(a).core.Flushable() {
		return false
	}
	return w.agreed(&st, &sb) && w.final(a, st, sb)
}

// final checks the end: no bytes or records are left but of flows that were cut off
// in the middle (an RST that was lost leaves its connection behind).
func (w *world) final(a *node, st, sb replication.Stats) bool {
	left := 0
	for _, g := range a.ordered {
		cut := g.f.lost || g.f.aborted || a.astray
		if cut && g.dialled && !g.gone && !g.finished {
			left++
		}
		if !cut && !g.finished && !g.gone && g.dialled {
			return false // its last segments are still under way
		}
	}
	if st.Connections > left || sb.Connections > left || (left == 0 && (st.HeldBytes > 0 || sb.HeldBytes > 0)) {
		w.failf("%d connections may be left; active %+v, standby %+v", left, st, sb)
	}
	if st.HeldBytes != sb.HeldBytes {
		w.failf("the active thinks that %d bytes are held, the standby holds %d", st.HeldBytes, sb.HeldBytes)
	}
	for _, n := range w.nodes {
		d := n.core.Stats().Drops
		w.seen.LimitStream += int(d[replication.LimitStream])
		w.seen.LimitConns += int(d[replication.LimitConns])
		w.seen.LimitPending += int(d[replication.LimitPending])
		w.seen.Refused += int(d[replication.PeerRefused])
		if d[replication.BrokenInvariant] > 0 || (d[replication.BadBatch] > 0 && w.seen.Flipped == 0) {
			w.failf("%s counted %v", n.name, d)
		}
	}
	return true
}

func (w *world) unfinished() string {
	var b strings.Builder
	for _, f := range w.flows {
		if f.over() {
			continue
		}
		fmt.Fprintf(&b, "\nflow %d:", f.n)
		for _, e := range []*endpoint{f.client, f.server} {
			fmt.Fprintf(&b, " %s sent %d of %d, received %d of %d;", e.name(), e.una, e.total+1, e.rcv, e.peerTotal+1)
		}
		if a := w.active(); a != nil && a.byFlow[f] != nil {
			g := a.byFlow[f]
			fmt.Fprintf(&b, " gateway opened %v finished %v %v", g.opened, g.finished, g.s)
		}
	}
	return b.String()
}
