package sim

import (
	"fmt"

	"lockstep/replication"
	"lockstep/replication/arbiter"
)

// driven is what a world without an oracle has: the network between the machines, what
// the observer knows of who has served, and what has gone wrong.
type driven struct {
	machines [3]*machine // without a witness the third does nothing
	cut      [3][3]int   // how many faults block that direction now
	sessions []*session

	heartbeat, failure, startEmpty nanos
	loop                           nanos // how late a role loop is, at most
	chaos                          nanos // how long faults last

	epoch    uint64 // newest that any voter knows, or has been served
	spoken   uint64 // newest in which anybody has said anything
	tenure   *tenure
	troubles []trouble
}

// voting is what a world with voters has more.
type voting struct {
	boots                          uint64
	lossVotes, dupVotes, slowVotes float64
	lateVotes                      nanos
	persistCrash                   float64
	handOvers                      bool // mostly hand-overs
	left                           int  // faults still to come; negative: no limit
}

// tenure is one appliance's time as the active.
type tenure struct {
	node     *node
	life     int
	epoch    uint64
	table    *table
	begun    nanos
	solo     bool           // it has gone on alone
	rejoined arbiter.Member // whom it took for its standby since
	settled  nanos          // since when the standby is in the in-sync set; 0: it is not
	lastTS   uint32         // clock of its newest packet
	spoke    bool
}

// trouble is a fault and how long it was felt.
type trouble struct{ from, until nanos }

const (
	healWithin = 12_000 * millis // the world must be well by then
	never      = nanos(1) << 60
)

// startPair makes a world of two appliances that decide with a witness or, if cfg.Alone,
// without.
func (w *world) startPair(cfg config) {
	w.driven, w.voting = &driven{}, &voting{left: -1}
	p := &w.plan
	w.faults = nil
	p.syncDelay, p.syncJitter = min(p.syncDelay, 5*millis), min(p.syncJitter, 2*millis)
	w.heartbeat, w.failure = 20*millis, 100*millis
	for _, l := range []*replication.Limits{&p.limits, &p.standbyLimits} {
		l.Heartbeat, l.FailureTimeout = w.heartbeat, w.failure
	}
	w.loop = w.between(100*micros, 3*millis)
	slow := 0.1
	if cfg.Alone {
		slow = 0.05
	}
	switch {
	case w.chance(0.15):
		w.loop = 30 * millis
	case w.chance(slow):
		w.loop = 200 * millis
	}
	if cfg.Alone {
		w.chooseAlone(cfg)
	} else {
		w.chooseVoters(cfg)
	}
	p.span = w.chaos
	for i := range w.machines {
		m := &machine{w: w, name: string("abw"[i]), id: i, offset: w.between(0, 1000*millis)}
		m.ppm = []nanos{-10000, 10000, w.between(-10000, 10000)}[w.rng.IntN(3)]
		w.machines[i] = m
		if i < 2 {
			w.nodes[i] = &node{machine: m}
		}
		if cfg.Alone {
			continue
		}
		m.voter = &voter{}
	}
	for _, m := range w.machines {
		if m.id < 2 || m.voter != nil {
			m.begins(w.between(0, 50*millis))
		}
	}
	if cfg.Fault >= 0 {
		p.snapshotFault = nil
		w.faults = append(w.faults, fault{cfg.Fault, cfg.Kind})
		if cfg.Second > 0 {
			w.faults = append(w.faults, fault{cfg.Second, cfg.SecondKind})
		}
	} else {
		w.after(w.between(300*millis, 900*millis), w.goWrong)
	}
	w.dialSoon()
	for i := range 3 + w.rng.IntN(6) {
		w.flows = append(w.flows, newFlow(w, i))
	}
	w.startAgreeing()
}

// chooseVoters draws what only a world with voters has.
func (w *world) chooseVoters(cfg config) {
	p := &w.plan
	if p.snapshotFault != nil {
		p.snapshotFault.kind = []FaultKind{CrashActive, CrashStandby, HostOff, CutLink}[w.rng.IntN(4)]
	}
	w.startEmpty = w.between(300*millis, 800*millis)
	if w.chance(0.5) {
		w.lossVotes, w.dupVotes, w.slowVotes = w.rng.Float64()*0.1, w.rng.Float64()*0.05, w.rng.Float64()*0.1
	}
	w.lateVotes = w.between(millis, 300*millis)
	w.chaos = w.between(1200*millis, 3000*millis)
	w.handOvers = w.chance(0.2)
	if w.chance(0.3) {
		w.left = 1 + w.rng.IntN(2)
	} else if w.chance(0.5) {
		w.persistCrash = 0.0005
	}
	if w.handOvers {
		p.loss, p.flip = 0, 0
	}
	if cfg.Fault >= 0 {
		w.left, w.persistCrash = 0, 0
	}
}

// begins starts a machine in d.
func (m *machine) begins(d nanos) {
	life := m.life
	m.w.after(d, func() {
		if m.life != life {
			return // it has started already
		}
		m.dark = false
		if m.id < 2 {
			m.w.nodes[m.id].begin()
			return
		}
		if a := m.w.active(); a != nil && m.life > 0 {
			m.w.pairSeen.WitnessRestartInLease++
		}
		m.start()
		m.vote()
	})
}

// runPair executes events until all is done after the heal, or too much has happened.
func (w *world) runPair() {
	for w.err == nil {
		if len(w.faults) > 0 && w.steps >= w.faults[0].step && !w.healed && (w.duo == nil || w.wholeNow() && !w.damaged()) {
			kind := w.faults[0].kind
			w.faults = w.faults[1:]
			w.strikePair(kind)
		}
		if w.now >= w.chaos && !w.healed {
			w.heal()
		}
		if w.healed && w.pairConverged() {
			w.logf("converged")
			return
		}
		limit := w.chaos + healWithin
		if w.duo != nil {
			limit += 4 * w.startEmpty
		}
		if w.steps++; w.steps > maxSteps || w.now > limit {
			w.failf("no convergence: %s%s", w.unfinished(), w.standing())
			return
		}
		w.next()
		w.check()
		if w.duo != nil {
			w.checkLone()
		} else {
			w.checkPair()
		}
		w.lookForSnapshot()
	}
}

// heal ends all faults. What is down comes back by itself.
func (w *world) heal() {
	w.logf("healed")
	w.healed = true
	w.plan.loss, w.plan.dup, w.plan.flip = 0, 0, 0
	w.lossVotes, w.dupVotes, w.slowVotes = 0, 0, 0
	w.cut = [3][3]int{}
	if w.duo != nil {
		w.lanCut, w.unplugged = 0, [2]int{}
	}
	for _, m := range w.machines {
		m.wake()
	}
}

// pairConverged: one appliance is active, the other one in sync and known to be, every
// connection has come to its end.
func (w *world) pairConverged() bool {
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
	for _, m := range w.machines {
		if w.duo == nil && (!m.alive || !m.joined || m.state.Active != a.self || m.state.Standby != o.self) {
			return false
		}
	}
	st, sb := a.core.Stats(), o.core.Stats()
	if st.LagBytes > 0 || st.Outstanding > 0 || a.core.Flushable() || o.core.Flushable() {
		return false
	}
	return w.agreed(&st, &sb) && w.final(a, st, sb)
}

// wholeNow: one speaks, the other one could take its place.
func (w *world) wholeNow() bool {
	a := w.serves()
	if a == nil {
		return false
	}
	o := w.other(a)
	return !a.frozen && !o.frozen && w.inSession() && a.core.Stats().CanTakeOver && o.core.Role() == replication.RoleStandby && o.core.InSync()
}

// standing says where all stand, for a failure.
func (w *world) standing() string {
	out := ""
	for _, m := range w.machines {
		out += fmt.Sprintf("\n%s alive %v frozen %v", m.name, m.alive, m.frozen)
		if m.voter != nil {
			out += fmt.Sprintf(", %v joined %v state %+v", m.self, m.joined, m.state)
		}
		if m.id < 2 {
			n := w.nodes[m.id]
			out += fmt.Sprintf(", %v in %d, %s, silent %v, session %v, in sync %v, vip %v",
				n.core.Role(), n.core.Epoch(), n.shell.rules.Stage(), n.silent(), n.session != nil, n.core.InSync(), w.vip == n)
		}
	}
	return out
}
