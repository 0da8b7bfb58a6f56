package sim

import (
	"fmt"

	"lockstep/replication"
	"lockstep/replication/roles"
)

// duo is what a world without a witness has more than one with.
type duo struct {
	startEmpty nanos
	// single: a fault strikes only when the pair is whole again after the one before.
	// Then everything is promised.
	single bool
	// split: the two may be cut off from each other on all networks, so both may go on.
	split     bool
	pausing   bool // a machine that stands still loses what is sent to it on the networks
	lossLAN   float64
	lanCut    int    // how many faults block the networks between the two now
	unplugged [2]int // how many faults have pulled that one's cables
	whole     nanos  // when the pair was last whole
	loneSeen  LoneSometimes
}

// LoneSometimes counts what must have happened in worlds without a witness.
type LoneSometimes struct {
	Single, Rough, Split                     int // worlds
	TookOver, TookOverDead, WentOn, Newcomer int
	StartedEmpty, StartedOverHolder          int
	StepDown, GaveUp, Proved                 int
	Claim, Unplugged, LANCut, LongFreeze     int
	WokeMute, TwoSpoke, Astray, Lost         int
}

func (w *world) startLone(cfg Config) {
	w.quorum = &quorum{left: -1}
	w.duo = &duo{}
	p := &w.plan
	w.faults, p.snapshotFault = nil, nil
	p.syncDelay, p.syncJitter = min(p.syncDelay, 5*millis), min(p.syncJitter, 2*millis)
	w.heartbeat, w.failure = 20*millis, 100*millis
	for _, l := range []*replication.Limits{&p.limits, &p.standbyLimits} {
		l.Heartbeat, l.FailureTimeout = w.heartbeat, w.failure
	}
	w.startEmpty = w.between(1500*millis, 4000*millis)
	w.loop = w.between(100*micros, 3*millis)
	switch {
	case w.chance(0.15):
		w.loop = 30 * millis
	case w.chance(0.05):
		w.loop = 200 * millis
	}
	if p.loss > 0 {
		w.lossLAN = p.loss
	}
	w.pausing = w.chance(0.5)
	w.chaos = w.between(2000*millis, 6000*millis)
	if cfg.Fault >= 0 {
		w.chaos = 2000 * millis
	}
	p.span = w.chaos
	switch {
	case cfg.Fault >= 0 || w.chance(0.5):
		w.single = true
		w.loneSeen.Single++
	case w.chance(0.3):
		w.split = true
		w.loneSeen.Split++
	default:
		w.loneSeen.Rough++
	}
	for i := range w.machines {
		m := &machine{w: w, name: string("abw"[i]), id: i, offset: w.between(0, 1000*millis)}
		m.ppm = []nanos{-10000, 10000, w.between(-10000, 10000)}[w.rng.IntN(3)]
		w.machines[i] = m
		if i < 2 {
			w.nodes[i] = &node{machine: m}
			m.begins(w.between(0, 50*millis))
		}
	}
	if cfg.Fault >= 0 {
		w.faults = append(w.faults, fault{cfg.Fault, cfg.Kind})
	} else {
		w.after(w.between(300*millis, 900*millis), w.goWrongAlone)
	}
	w.dialSoon()
	for i := range 3 + w.rng.IntN(6) {
		w.flows = append(w.flows, newFlow(w, i))
	}
}

func (w *world) aloneConfig(n *node) roles.AloneConfig {
	return roles.AloneConfig{
		Smaller: n.id == 0, Heartbeat: w.heartbeat, FailureTimeout: w.failure,
		StartEmptyAfter: w.startEmpty, Settle: 300 * millis,
	}
}

func (w *world) runLone() {
	for w.err == nil {
		if len(w.faults) > 0 && w.steps >= w.faults[0].step && !w.healed && w.wholeNow() {
			kind := w.faults[0].kind
			w.faults = w.faults[1:]
			w.strikeAlone(kind)
		}
		if w.now >= w.chaos && !w.healed {
			w.heal()
			w.lanCut, w.unplugged = 0, [2]int{}
		}
		if w.healed && w.loneConverged() {
			w.logf("converged")
			return
		}
		if w.steps++; w.steps > maxSteps || w.now > w.chaos+healWithin+4*w.startEmpty {
			w.failf("no convergence: %s%s", w.unfinished(), w.standingAlone())
			return
		}
		w.next()
		w.check()
		w.checkLone()
		w.lookForSnapshot()
	}
}

// wholeNow: one speaks, the other one could take its place.
func (w *world) wholeNow() bool {
	a := w.serves()
	return a != nil && !a.frozen && !w.other(a).frozen && w.inSession() && a.core.Stats().CanTakeOver && w.other(a).alone().whole()
}

// loneConverged: the pair is whole, every connection has come to its end.
func (w *world) loneConverged() bool {
	for _, f := range w.flows {
		if !f.over() {
			return false
		}
	}
	if !w.wholeNow() {
		return false
	}
	a := w.serves()
	o := w.other(a)
	st, sb := a.core.Stats(), o.core.Stats()
	if st.LagBytes > 0 || st.Outstanding > 0 || a.core.Flushable() || o.core.Flushable() {
		return false
	}
	return w.final(a, st, sb)
}

func (w *world) standingAlone() string {
	out := ""
	for _, n := range w.nodes {
		l := n.alone()
		out += fmt.Sprintf("\n%s alive %v frozen %v %s, %v in %d, silent %v, session %v, whole %v, vip %v", n.name, n.alive, n.frozen,
			l.rules.Stage(), n.core.Role(), n.core.Epoch(), n.silent(), n.session != nil, l.whole(), w.vip == n)
	}
	return out
}

// overLAN sends between the two on the front or the back network.
func (w *world) overLAN(from, to *node, deliver func()) {
	lost := w.lanCut > 0 || w.unplugged[0]+w.unplugged[1] > 0 || w.chance(w.lossLAN) || !to.alive || to.frozen && w.pausing
	if lost {
		return
	}
	life := to.life
	w.after(w.between(50*micros, 2*millis), func() {
		if to.frozen && w.pausing {
			return
		}
		to.run(life, deliver)
	})
}
