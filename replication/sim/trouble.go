package sim

import "lockstep/replication"

// Further kinds of fault, for a world without an oracle.
const (
	HostOff    = numFaults + iota // the active's host goes: nobody says so
	FreezeAny                     // one stands still, for longer than the lease or not
	CutOneWay                     // one direction between two
	CutBoth                       // both
	SwitchOver                    // asked for by the operator
	Zombie                        // the active stands still, and its successor dies when it wakes
	Blackout                      // both appliances go

	// With a witness.
	CrashWipe   // the active loses its disk, too
	CrashVoter  // the witness
	Isolate     // one of the three from both others
	Swizzle     // all links one after the other, and back in another order
	BadNetwork  // messages of the voters are lost and late
	ForgetLease // the active has its lease from the witness alone, which restarts at once

	// Without one.
	Unplug     // all cables of one
	Claim      // a stranger claims the virtual addresses, once
	BackOnly   // the front and the back cable of one
	Newcomer   // the standby dies, its successor finds the holder standing still
	BothFreeze // both stand still, and wake
	Split      // all networks between the two
)

// votedKinds are the faults of a world with a witness, singleKinds those of one without
// of which each alone does no harm, roughKinds the others; split is apart.
var (
	votedKinds = []FaultKind{
		CrashActive, CrashStandby, CutLink, HostOff, FreezeAny, CutOneWay, CutBoth, SwitchOver, Zombie, Blackout,
		CrashWipe, CrashVoter, Isolate, Swizzle, BadNetwork, ForgetLease,
	}
	singleKinds = []FaultKind{
		CrashActive, CrashStandby, CutLink, HostOff, FreezeAny, CutOneWay, CutBoth, SwitchOver, Unplug, Claim, BackOnly,
	}
	roughKinds = append(singleKinds[:len(singleKinds):len(singleKinds)], Newcomer, Zombie, Blackout, BothFreeze)
	splitKinds = append(roughKinds[:len(roughKinds):len(roughKinds)], Split)
)

// kinds are what may go wrong in this world.
func (w *world) kinds() []FaultKind {
	switch {
	case w.duo == nil:
		return votedKinds
	case w.split:
		return splitKinds
	case w.single:
		return singleKinds
	}
	return roughKinds
}

// goWrong does something bad, or just something, and comes again.
func (w *world) goWrong() {
	if w.healed || w.left == 0 {
		return
	}
	if w.duo != nil && w.single && (!w.wholeNow() || w.damaged() || w.faultsSince(w.now) > 0) {
		w.after(50*millis, w.goWrong)
		return
	}
	w.left--
	kinds := w.kinds()
	kind := kinds[w.rng.IntN(len(kinds))]
	if w.handOvers && w.chance(0.8) {
		kind = SwitchOver
	}
	w.strikePair(kind)
	w.after(w.between(20*millis, 700*millis), w.goWrong)
}

// hit is where a fault strikes, and for how long.
type hit struct {
	kind FaultKind
	d    nanos
	m, o *machine // any one, and any other
	a    *node    // who is the active and may speak, or nil
}

// strikePair makes a fault happen now.
func (w *world) strikePair(kind FaultKind) {
	h := hit{kind: kind, d: w.between(20*millis, 800*millis), a: w.serves()}
	if w.duo == nil {
		h.m = w.machines[w.rng.IntN(3)]
		h.o = w.machines[(h.m.id+1+w.rng.IntN(2))%3]
	} else {
		h.m = w.machines[w.rng.IntN(2)]
		h.o = w.machines[1-h.m.id]
	}
	switch kind {
	case CrashActive, CrashStandby, CrashWipe, HostOff:
		w.crashOne(h)
	case CutLink:
		w.logf("reset")
		w.felt(0)
		w.reset()
	case FreezeAny:
		if w.duo != nil && w.chance(0.2) {
			h.d += w.startEmpty
			w.loneSeen.LongFreeze++
		}
		h.m.freeze(h.d)
	case CutOneWay:
		w.pairSeen.OneWay++
		w.block(h.d, h.m, h.o)
	case CutBoth:
		w.sever(h)
	case SwitchOver:
		if h.a != nil {
			h.a.shell.loop(func() {
				if h.a.shell.switchover() && w.duo != nil {
					w.felt(0) // by what is promised it is one of the faults
				}
			})
		}
	case Zombie, Blackout:
		w.strikeTwice(h)
	default:
		if w.duo != nil {
			w.strikeAlone(h)
		} else {
			w.strikeVoters(h)
		}
	}
}

// crashOne is for a process of which we know what it is.
func (w *world) crashOne(h hit) {
	if h.a == nil {
		return
	}
	m := h.a.machine
	if h.kind == CrashStandby {
		m = w.other(h.a).machine
	}
	m.crash(h.kind == HostOff || w.duo != nil && w.chance(0.2), h.kind == CrashWipe || w.chance(0.2))
}

// sever cuts both directions between two.
func (w *world) sever(h hit) {
	w.block(h.d, h.m, h.o)
	w.block(h.d, h.o, h.m)
}

// strikeTwice is for what is two faults at a time.
func (w *world) strikeTwice(h hit) {
	switch h.kind {
	case Zombie:
		if h.a == nil {
			return
		}
		d := w.between(200*millis, 700*millis)
		h.a.freeze(d)
		w.after(d-w.between(0, 40*millis), func() {
			if s := w.serves(); s != nil && s != h.a && !w.healed {
				s.machine.crash(w.duo != nil && w.chance(0.5), false)
			}
		})
	case Blackout:
		dark := w.duo == nil
		w.machines[0].crash(dark, false)
		w.after(w.between(0, 100*millis), func() {
			if !w.healed {
				w.machines[1].crash(dark, false)
			}
		})
	}
}

// strikeVoters is for what only a world with voters has.
func (w *world) strikeVoters(h hit) {
	switch h.kind {
	case CrashVoter:
		w.machines[2].crash(w.chance(0.5), w.chance(0.3))
	case Isolate:
		w.pairSeen.Isolated++
		for _, x := range w.machines {
			if x != h.m {
				w.sever(hit{d: h.d, m: h.m, o: x})
			}
		}
	case Swizzle:
		w.swizzle()
	case ForgetLease:
		x, y, v := w.machines[0], w.machines[1], w.machines[2]
		w.sever(hit{d: 600 * millis, m: x, o: y})
		w.after(w.between(100*millis, 500*millis), func() {
			if v.alive && !w.healed {
				v.crash(false, false)
				v.begins(w.between(millis, 20*millis))
			}
		})
	case BadNetwork:
		w.lossVotes, w.slowVotes = w.rng.Float64()*0.3, w.rng.Float64()*0.3
		w.felt(never)
	}
}

// felt notes a fault that lasts for d. In an oracle world nobody asks for them.
func (w *world) felt(d nanos) {
	if w.driven != nil {
		w.troubles = append(w.troubles, trouble{w.now, w.now + d})
	}
}

// block drops everything in one direction for d.
func (w *world) block(d nanos, from, to *machine) {
	w.logf("cut %s -> %s for %d ms", from.name, to.name, d/millis)
	w.felt(d)
	w.cut[from.id][to.id]++
	w.after(d, func() {
		if w.cut[from.id][to.id] > 0 {
			w.cut[from.id][to.id]--
		}
	})
}

// swizzle cuts the links one after the other, in any order, and brings them back in
// any other.
func (w *world) swizzle() {
	w.pairSeen.Swizzled++
	links := [][2]int{{0, 1}, {0, 2}, {1, 2}}
	for _, i := range w.rng.Perm(3) {
		x, y := w.machines[links[i][0]], w.machines[links[i][1]]
		d := w.between(50*millis, 500*millis)
		w.after(w.between(0, 200*millis), func() {
			if !w.healed {
				w.sever(hit{d: d, m: x, o: y})
			}
		})
	}
}

// freeze makes a machine stand still.
func (m *machine) freeze(d nanos) {
	if !m.alive || m.frozen {
		return
	}
	m.w.logf("%s freezes for %d ms", m.name, d/millis)
	m.w.felt(d + m.w.failure)
	m.frozen = true
	life := m.life
	m.w.after(d, func() {
		if m.life == life {
			m.wake()
		}
	})
}

// crash ends a process, or its host, and lets it come back. One voter's disk at a time may
// be lost, while the two others remember: more than that no voting survives.
func (m *machine) crash(dark, wipe bool) {
	w := m.w
	if !m.alive {
		return
	}
	w.logf("crash of %s, host off %v", m.name, dark)
	if m.id < 2 {
		n := w.nodes[m.id]
		if w.serves() == n {
			w.seen.CrashActive++
			if w.inside {
				w.seen.CrashInSnapshot++
			}
		}
		if o := w.other(n); w.duo != nil && n.core.Role() == replication.RoleActive && o.alive && o.shell.speaks() {
			w.dropped(n.alone(), n.table) // it may be one of two that have gone on
		}
	}
	m.stop()
	m.dark = dark
	if dark {
		w.pairSeen.PowerOff++
	}
	if m.id < 2 {
		w.broken(w.nodes[m.id])
	}
	for _, o := range w.machines {
		wipe = wipe && o.voter != nil && o.joined
	}
	if wipe {
		w.logf("%s loses its disk", m.name)
		m.disk, m.joined, m.wiped = nil, false, true
		w.pairSeen.DiskLost++
	}
	d := w.between(30*millis, 600*millis)
	w.felt(d + 5*w.failure)
	m.begins(d)
}

// mayCrash: a process dies beside its disk.
func (w *world) mayCrash(m *machine) bool {
	if w.healed || !w.chance(w.persistCrash) {
		return false
	}
	w.pairSeen.CrashAtDisk++
	m.crash(false, false)
	return true
}
