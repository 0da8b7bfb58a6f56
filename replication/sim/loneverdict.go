package sim

import (
	"cmp"
	"slices"

	"lockstep/replication"
	"lockstep/replication/roles"
)

// excused: more has gone wrong than a pair without a witness promises to survive.
func (w *world) excused() bool {
	return w.split || !w.single && w.faultsSince(w.now-w.startEmpty-2000*millis) > 1
}

// damaged: a bit was flipped in the session of the two, and nobody has ended it for that yet. If it was one of a frame's length
// the receiver waits for what never comes, and says and answers nothing until its patience is over: the link is deaf in one
// direction, and who dies meanwhile is a second fault, after which a store may be too old to be continued (roles.Alone: freshUntil).
func (w *world) damaged() bool {
	s := w.nodes[0].session
	return s != nil && s.flipped
}

// checkLone looks who might say something now, whether it does or not.
func (w *world) checkLone() {
	a, b := w.nodes[0], w.nodes[1]
	if a.driver == nil || b.driver == nil || a.silent() || b.silent() {
		return
	}
	if a.frozen || b.frozen { // it finds its lease over, or not, when it wakes
		return
	}
	w.loneSeen.TwoSpoke++
	if !w.excused() {
		w.failf("two may speak: %s in epoch %d and %s in epoch %d (invariant 4)", a.name, a.core.Epoch(), b.name, b.core.Epoch())
	}
}

// observeAlone sees a packet as it leaves n (invariant 4).
func (w *world) observeAlone(n *node, g *gwConn) {
	t := n.alone().ten
	if n.table.astray {
		return
	}
	if (w.tenure != t || t.epoch < w.spoken) && !w.excused() {
		w.failf("%s says something on flow %d in epoch %d, %s serves in %d, %d has spoken (invariant 4)",
			n.name, g.f.n, t.epoch, w.tenure.node.name, w.tenure.epoch, w.spoken)
	}
	w.spoken = max(w.spoken, t.epoch)
	t.lastTS, t.spoke = n.clock(), true
	if g.unprotected {
		g.loose = true
	}
}

// goesOnAlone: l's standby holds too little from now on.
func (w *world) goesOnAlone(l *lonely) {
	w.logf("%s goes on alone", l.name)
	w.seen.Released++
	w.loneSeen.WentOn++
	l.ten.solo = true
	if w.tenure == l.ten {
		return
	}
	// Somebody has taken over meanwhile.
	w.loneSeen.Astray++
	if !w.excused() {
		w.failf("%s goes on in epoch %d although %s has served in %d since", l.name, l.core.Epoch(), w.tenure.node.name, w.tenure.epoch)
	}
	w.loseAll()
	w.tenure, l.table.astray = l.ten, true
}

// inTrueTime is when the machine's clock says at.
func (m *machine) inTrueTime(at nanos) nanos {
	return (at - m.offset) - (at-m.offset)*m.ppm/(1_000_000+m.ppm)
}

// checkGap: l takes over because t's appliance is silent. If that lives it has been silent
// for longer than clocks of these speeds may come apart, though nobody has told it to be.
func (w *world) checkGap(l *lonely, t *tenure) {
	o := t.node
	if !o.alive || o.life != t.life || o.core.Role() != replication.RoleActive || w.excused() {
		return
	}
	span := func(d nanos, m *machine) nanos { return d - d*m.ppm/(1_000_000+m.ppm) }
	least := span(l.core.Promised().Most.Wait, l.machine) - span(replication.LeaseTime(o.core.PeerPromise().Wait), o.machine) - micros // rounding
	if gap := w.now - o.inTrueTime(o.alone().Lease()); gap < least {
		w.failf("%s takes over %d us after the end of %s's lease, not %d us", l.name, gap/micros, o.name, least/micros)
	}
	w.loneSeen.FromLiving++
}

// continuesAlone is a takeover of what the active of our last session has served.
func (w *world) continuesAlone(l *lonely, epoch uint64, why string) error {
	t := l.followed.serves
	if why == roles.ActiveSilent {
		w.checkGap(l, t)
	}
	if t.solo {
		w.failf("%s continues connections although %s went on without it (invariant 5)", l.name, t.node.name)
	}
	clock, known := l.core.PeerClock(l.clock())
	rtt, live := l.core.RTT(), l.core.Stats().Connections
	l.astray = t.table.astray
	if err := l.continueAll(epoch, t.table); err != nil {
		w.failf("%s can take over, and can not: %v", l.name, err)
		return err
	}
	// Invariant 7, with the margin of appliance/roles.go.
	if shifted := clock + uint32(rtt/millis) + 20; live > 0 && t.spoke && (!known || int32(shifted-t.lastTS) < 0) {
		w.failf("%s would let TSval go back: known %v, %d after %d", l.name, known, shifted, t.lastTS)
	}
	w.loneSeen.TookOver++
	if !t.node.alive {
		w.loneSeen.TookOverDead++
	}
	return nil
}

// startsAlone is a start of one that holds nothing.
func (w *world) startsAlone(l *lonely, epoch uint64, why string) {
	old := w.tenure
	w.logf("%s starts empty in epoch %d: %s", l.name, epoch, why)
	w.startedOver(old)
	if err := l.core.SetRole(replication.RoleActive, epoch); err != nil {
		w.failf("%s starts empty: %v", l.name, err)
	}
	w.loneSeen.StartedEmpty++
	w.seen.StartedEmpty++
	l.next, l.astray = 0, false
	l.forget()
	l.serveEpoch(epoch)
	if old != nil {
		w.forsake(old.table)
	}
	w.loseAll()
}

// startedOver: a holder of connections is passed over only if it has not been able to
// say a word for StartEmptyAfter.
func (w *world) startedOver(old *tenure) {
	if old == nil || !old.node.alive || old.node.life != old.life || old.node.core.Role() != replication.RoleActive {
		return
	}
	if !slices.ContainsFunc(old.table.ordered, func(g *gwConn) bool { return !g.gone && g.f.said() && !g.f.over() }) {
		return // it has just started, too
	}
	if w.now-old.begun <= 2*w.loop {
		w.loneSeen.JustBegun++ // what it said of itself when the session was made was true then
		return
	}
	w.loneSeen.StartedOverHolder++
	since := w.now
	for _, x := range w.troubles {
		if x.until >= w.now-1000*millis { // one that has just come to itself is mute, and asks
			since = min(since, x.from)
		}
	}
	// It is asked twice a second, and clocks may be off by one per cent.
	if !w.split && w.now-since < w.startEmpty-w.startEmpty/40-800*millis {
		w.failf("%s holds connections, and is passed over after %d ms", old.node.name, (w.now-since)/millis)
	}
}

// dropped: l has stepped down, and had those connections. What the other active does not continue is lost; if there
// is none, a standby may still continue it.
func (w *world) dropped(l *lonely, had *table) {
	if o := w.other(l.node); w.tenure == l.ten && o.alive && o.core.Role() == replication.RoleActive {
		w.tenure, w.spoken = o.alone().ten, 0
	}
	if w.tenure != l.ten {
		w.forsakeFor(had, w.tenure.table)
	}
}

// forsake: nobody continues the connections of a table any more.
func (w *world) forsake(t *table) { w.forsakeFor(t, nil) }

// continues: not so where two have gone on and both got its SYN, and the server has answered
// the later one since, which was the other's.
func (t *table) continues(f *flow) bool {
	g := cmp.Or(t.byFlow[f], t.resting[f])
	return g != nil && g.inc >= f.server.inc
}

func (w *world) forsakeFor(t, by *table) {
	for _, g := range t.all() {
		f := g.f
		if f.over() || g.gone || !f.said() || by != nil && by.continues(f) {
			continue
		}
		w.loneSeen.Lost++
		if w.single && !w.plan.unequal && (by == nil || t.protected(g)) {
			w.failf("flow %d is lost in a world of single faults", f.n)
		}
		w.loseFlow(f)
	}
}
