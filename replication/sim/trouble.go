package sim

// Further kinds of fault, for a world with voters.
const (
	CrashWipe   = numFaults + iota // the active loses its disk, too
	PowerOff                       // the active's host goes: nobody says so
	CrashVoter                     // the witness
	FreezeAny                      // one of the three, for longer than the lease or not
	CutOneWay                      // one direction between two of the three
	CutBoth                        // both
	Isolate                        // one from both others
	Swizzle                        // all links one after the other, and back in another order
	SwitchOver                     // asked for by the operator
	BadNetwork                     // messages of the voters are lost and late
	ForgetLease                    // the active has its lease from the witness alone, which restarts at once
	Zombie                         // the active stands still, and its successor dies when it wakes
	Blackout                       // both appliances go
	numTroubles
)

// goWrong does something bad, or just something, and comes again.
func (w *world) goWrong() {
	if w.healed || w.left == 0 {
		return
	}
	w.left--
	kind := FaultKind(w.rng.IntN(int(numTroubles)))
	if w.handOvers && w.chance(0.8) {
		kind = SwitchOver
	}
	w.strikePair(kind)
	w.after(w.between(20*millis, 600*millis), w.goWrong)
}

// strikePair makes a fault happen now.
func (w *world) strikePair(kind FaultKind) {
	d := w.between(20*millis, 700*millis)
	m := w.machines[w.rng.IntN(3)]
	o := w.machines[(m.id+1+w.rng.IntN(2))%3]
	a := w.serves()
	switch kind {
	case CrashActive, CrashStandby, CrashWipe, PowerOff:
		if a == nil {
			return
		}
		m = a.machine
		if kind == CrashStandby {
			m = w.other(a).machine
		} else if w.inside {
			w.seen.CrashInSnapshot++
		}
		m.crash(kind == PowerOff, kind == CrashWipe || w.chance(0.2))
	case CrashVoter:
		w.machines[2].crash(w.chance(0.5), w.chance(0.3))
	case CutLink:
		w.logf("reset")
		w.felt(0)
		w.reset()
	case FreezeAny:
		m.freeze(d)
	case CutOneWay:
		w.pairSeen.OneWay++
		w.block(d, m, o)
	case CutBoth:
		w.block(d, m, o)
		w.block(d, o, m)
	case Isolate:
		w.pairSeen.Isolated++
		for _, x := range w.machines {
			if x != m {
				w.block(d, m, x)
				w.block(d, x, m)
			}
		}
	case Swizzle:
		w.swizzle()
	case SwitchOver:
		if a != nil {
			a.shell.loop(a.shell.switchover)
		}
	case ForgetLease:
		x, y, v := w.machines[0], w.machines[1], w.machines[2]
		w.block(600*millis, x, y)
		w.block(600*millis, y, x)
		w.after(w.between(100*millis, 500*millis), func() {
			if v.alive && !w.healed {
				v.crash(false, false)
				v.begins(w.between(millis, 20*millis))
			}
		})
	case Zombie:
		if a == nil {
			return
		}
		d := w.between(250*millis, 500*millis)
		a.freeze(d)
		w.after(d-w.between(0, 30*millis), func() {
			if s := w.serves(); s != nil && s != a && !w.healed {
				s.machine.crash(false, false)
			}
		})
	case Blackout:
		w.machines[0].crash(true, false)
		w.after(w.between(0, 20*millis), func() {
			if !w.healed {
				w.machines[1].crash(true, false)
			}
		})
	case BadNetwork:
		w.lossVotes, w.slowVotes = w.rng.Float64()*0.3, w.rng.Float64()*0.3
		w.felt(never)
	}
}

// felt notes a fault that lasts for d. In an oracle world nobody asks for them.
func (w *world) felt(d nanos) {
	if w.quorum != nil {
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
				w.block(d, x, y)
				w.block(d, y, x)
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

// crash ends a process, or its host. One disk at a time may be lost, while the two
// others remember: more than that no voting survives.
func (m *machine) crash(dark, wipe bool) {
	w := m.w
	if !m.alive {
		return
	}
	w.logf("crash of %s, host off %v", m.name, dark)
	if m.id < 2 && w.serves() == w.nodes[m.id] {
		w.seen.CrashActive++
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
		wipe = wipe && o.joined
	}
	if wipe {
		w.logf("%s loses its disk", m.name)
		m.disk, m.joined, m.wiped = nil, false, true
		w.pairSeen.DiskLost++
	}
	d := w.between(30*millis, 500*millis)
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
