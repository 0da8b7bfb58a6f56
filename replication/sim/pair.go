package sim

import (
	"fmt"

	"lockstep/replication"
	"lockstep/replication/arbiter"
)

// quorum is what a world with voters has more: the network between the three, what the
// observer knows of their decisions, and what has gone wrong.
type quorum struct {
	machines [3]*machine
	cut      [3][3]int // how many faults block that direction now
	sessions []*session
	boots    uint64

	heartbeat, failure, patience   nanos
	loop                           nanos // how late a role loop is, at most
	lossVotes, dupVotes, slowVotes float64
	lateVotes                      nanos
	persistCrash                   float64
	chaos                          nanos // how long faults last
	handOvers                      bool  // mostly hand-overs
	left                           int   // faults still to come; negative: no limit

	epoch    uint64 // newest that any voter knows
	spoken   uint64 // newest in which anybody has said anything
	tenure   *tenure
	troubles []trouble
}

// tenure is one appliance's time as the active.
type tenure struct {
	node     *node
	life     int
	epoch    uint64
	table    *table
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

func (w *world) startPair(cfg Config) {
	w.quorum = &quorum{left: -1}
	p := &w.plan
	w.faults = nil
	if p.snapshotFault != nil {
		p.snapshotFault.kind = []FaultKind{CrashActive, CrashStandby, PowerOff, CutLink}[w.rng.IntN(4)]
	}
	p.syncDelay, p.syncJitter = min(p.syncDelay, 5*millis), min(p.syncJitter, 2*millis)
	w.heartbeat, w.failure = 20*millis, 100*millis
	for _, l := range []*replication.Limits{&p.limits, &p.standbyLimits} {
		l.Heartbeat, l.FailureTimeout = w.heartbeat, w.failure
	}
	w.patience = w.between(300*millis, 800*millis)
	w.loop = w.between(100*micros, 3*millis)
	switch {
	case w.chance(0.15):
		w.loop = 30 * millis
	case w.chance(0.05):
		w.loop = 200 * millis
	}
	if w.chance(0.5) {
		w.lossVotes, w.dupVotes, w.slowVotes = w.rng.Float64()*0.1, w.rng.Float64()*0.05, w.rng.Float64()*0.1
	}
	w.lateVotes = w.between(millis, 300*millis)
	w.chaos = w.between(1200*millis, 3000*millis)
	p.span = w.chaos
	w.handOvers = w.chance(0.2)
	if w.chance(0.3) {
		w.left = 1 + w.rng.IntN(2)
	} else if w.chance(0.5) {
		w.persistCrash = 0.0005
	}
	if w.handOvers {
		p.loss, p.flip = 0, 0
	}
	for i := range w.machines {
		m := &machine{w: w, name: string("abw"[i]), id: i, offset: w.between(0, 1000*millis), voter: &voter{}}
		m.ppm = []nanos{-10000, 10000, w.between(-10000, 10000)}[w.rng.IntN(3)]
		w.machines[i] = m
		if i < 2 {
			w.nodes[i] = &node{machine: m}
		}
	}
	if cfg.Fault >= 0 {
		w.left, w.persistCrash, p.snapshotFault = 0, 0, nil
		w.faults = append(w.faults, fault{cfg.Fault, cfg.Kind})
		if cfg.Second > 0 {
			w.faults = append(w.faults, fault{cfg.Second, cfg.SecondKind})
		}
	} else {
		w.after(w.between(300*millis, 900*millis), w.goWrong)
	}
	for _, m := range w.machines {
		m.begins(w.between(0, 50*millis))
	}
	w.dialSoon()
	for i := range 3 + w.rng.IntN(6) {
		w.flows = append(w.flows, newFlow(w, i))
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

func (w *world) runPair() {
	for w.err == nil {
		if len(w.faults) > 0 && w.steps >= w.faults[0].step && !w.healed {
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
		if w.steps++; w.steps > maxSteps || w.now > w.chaos+healWithin {
			w.failf("no convergence: %s%s", w.unfinished(), w.standing())
			return
		}
		w.next()
		w.check()
		w.checkPair()
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
	for _, m := range w.machines {
		m.wake()
	}
}

// pairConverged: three voters vote, one appliance is active, the other one in sync
// and known to be, every connection has come to its end.
func (w *world) pairConverged() bool {
	for _, f := range w.flows {
		if !f.over() {
			return false
		}
	}
	a := w.serves()
	if a == nil || !w.inSession() || !a.core.Stats().CanTakeOver {
		return false
	}
	o := w.other(a)
	for _, m := range w.machines {
		if !m.alive || !m.joined || m.state.Active != a.self || m.state.Standby != o.self {
			return false
		}
	}
	st, sb := a.core.Stats(), o.core.Stats()
	if st.LagBytes > 0 || st.Outstanding > 0 || a.core.Flushable() || o.core.Flushable() {
		return false
	}
	return w.final(a, st, sb)
}

// standing says where the voters stand, for a failure.
func (w *world) standing() string {
	out := ""
	for _, m := range w.machines {
		out += fmt.Sprintf("\n%v alive %v frozen %v joined %v state %+v", m.self, m.alive, m.frozen, m.joined, m.state)
		if m.id < 2 {
			n := w.nodes[m.id]
			out += fmt.Sprintf(" %v in %d, %s, silent %v, session %v, in sync %v, vip %v",
				n.core.Role(), n.core.Epoch(), n.shell.rules.Stage(), n.silent(), n.session != nil, n.core.InSync(), w.vip == n)
		}
	}
	return out
}
