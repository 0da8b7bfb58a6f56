package sim

import (
	"lockstep/replication"
	"lockstep/replication/arbiter"
)

// PairSometimes counts what must have happened in worlds with voters.
type PairSometimes struct {
	FencedZombie, SpeaksAgain, LeaseHeldBack      int
	TakeoverWhole, ClaimEmpty, SoloRejoinTakeover int
	HandOver, HandedOver, HandOverRefused         int
	SwitchedUnderLoad, ContinuedThird             int
	WitnessRestartInLease, Forced                 int
	DiskLost, DiskLostRejoined, CrashAtDisk       int
	PowerOff, OneWay, Isolated, Swizzled          int
	Superseded, Parked, Stale                     int
	LostProtected, LostUnprotected                int
	ResultMute                                    int
}

// settle follows what the active knows of its standby.
func (w *world) settle(m *machine) {
	t := w.tenure
	if t == nil || t.node.machine != m || t.life != m.life || m.state.Epoch != t.epoch {
		return
	}
	switch {
	case m.state.Standby.None():
		t.settled = 0
	case t.settled == 0:
		t.settled = w.now
	}
}

// observeRelease sees a packet as it leaves n, at the true time (invariant 4): only
// who serves the newest epoch says anything.
func (w *world) observeRelease(n *node, g *gwConn) {
	t := w.tenure
	if t == nil || t.node != n || t.life != n.life || t.epoch != n.core.Epoch() || t.epoch < w.spoken {
		w.failf("%s says something on flow %d in epoch %d, epoch %d is served, %d has spoken (invariant 4)", n.name, g.f.n, n.core.Epoch(), t.epoch, w.spoken)
		return
	}
	if n.state.Epoch != t.epoch {
		w.failf("%s speaks on connections of epoch %d with the lease of epoch %d (invariant 4)", n.name, t.epoch, n.state.Epoch)
	}
	w.spoken = t.epoch
	t.lastTS, t.spoke = n.clock(), true
	if g.unprotected {
		g.loose = true
	}
}

// checkPair looks who might say something now, whether it does or not, and whether
// it is awake or not.
func (w *world) checkPair() {
	a, b := w.nodes[0], w.nodes[1]
	if a.driver != nil && b.driver != nil && !a.silent() && !b.silent() {
		w.failf("two may speak: %s in epoch %d and %s in epoch %d (invariant 4)", a.name, a.core.Epoch(), b.name, b.core.Epoch())
	}
}

// released: v goes on alone, so its standby holds too little from now on.
func (w *world) released(v *voted) {
	w.seen.Released++
	if t := w.tenure; t != nil && t.node == v.node && t.life == v.life {
		t.solo, t.rejoined = true, arbiter.Member{}
	}
}

// continues is a takeover of what the tenure before has served.
func (w *world) continues(v *voted, epoch uint64) error {
	t := w.tenure
	switch {
	case t == nil || t.epoch != v.core.Epoch():
		w.failf("%s continues what epoch %d has served, the last one is %+v (invariant 5)", v.name, v.core.Epoch(), t)
	case t.solo && t.rejoined != v.self:
		w.failf("%s continues connections although %s went on without it (invariant 5)", v.name, t.node.name)
	}
	clock, known := v.core.PeerClock(v.clock())
	rtt := v.core.RTT()
	handing := t.node.alive && t.node.shell.handing()
	live := v.core.Stats().Connections
	if err := v.continueAll(epoch, t.table); err != nil {
		w.failf("%s is in sync for the voters, but not for itself: %v", v.name, err)
		return err
	}
	// Invariant 7, with the margin of appliance/roles.go.
	if shifted := clock + uint32(rtt/millis) + 20; t.spoke && (!known || int32(shifted-t.lastTS) < 0) {
		w.failf("%s would let TSval go back: known %v, %d after %d", v.name, known, shifted, t.lastTS)
	}
	w.pairSeen.TakeoverWhole++
	if t.solo && live > 0 {
		w.pairSeen.SoloRejoinTakeover++
	}
	if handing && live > 0 {
		w.pairSeen.SwitchedUnderLoad++
	}
	return nil
}

// startsEmpty is a claim of one that holds nothing.
func (w *world) startsEmpty(v *voted, epoch uint64) {
	old := w.tenure
	if v.core.Role() == replication.RoleStandby && !v.core.InSync() {
		if v.core.Stats().Connections > 0 {
			w.seen.RefusedInSnapshot++
		}
		if _, err := v.core.Takeover(epoch); err == nil {
			w.failf("%s takes over although it is not in sync (invariant 5)", v.name)
		}
		w.seen.NotInSync++
	}
	if err := v.core.SetRole(replication.RoleActive, epoch); err != nil {
		w.failf("%s starts empty: %v", v.name, err)
	}
	w.logf("%s starts empty in epoch %d", v.name, epoch)
	v.next = 0
	v.forget()
	v.serveEpoch(epoch)
	if old == nil {
		return
	}
	w.pairSeen.ClaimEmpty++
	w.seen.StartedEmpty++
	for _, g := range old.table.ordered {
		switch f := g.f; {
		case f.over() || g.gone || !f.said():
		case old.settled == 0 || !old.table.protected(g) || w.plan.unequal:
			w.pairSeen.LostUnprotected++
		default:
			w.pairSeen.LostProtected++
			if n := w.faultsSince(old.settled); n < 2 {
				w.failf("flow %d was protected and is lost after %d fault(s)", f.n, n)
			}
		}
	}
	w.loseAll()
}

// faultsSince counts what has gone wrong since t, or was still felt then. The design
// promises to survive one.
func (w *world) faultsSince(t nanos) (n int) {
	for _, x := range w.troubles {
		if x.until >= t {
			n++
		}
	}
	return n
}
