package sim

import "lockstep/replication"

// Faults of a world without a witness.
const (
	Reset        = numFaults + iota // a middlebox ends the session while both live
	HostOff                         // the active's host goes: nobody says so
	FreezeEither                    // for less than the lease, or for longer than StartEmptyAfter
	SyncOneWay                      // one direction of the sync network
	SyncBoth                        // both
	Unplug                          // all cables of one
	Switchover                      // asked for by the operator
	Claim                           // a stranger claims the virtual addresses, once
	BackOnly                        // the front and the back cable of one
	numSingle
	Newcomer   = numSingle + iota - numFaults // the standby dies, its successor finds the holder standing still
	Succeeded                                 // the active stands still, its successor dies when it wakes
	BothGo                                    // both processes die
	BothFreeze                                // both stand still, and wake
	numRough
	Split // all networks between the two
	numSplit
)

// goWrongAlone does something bad, or just something, and comes again.
func (w *world) goWrongAlone() {
	if w.healed {
		return
	}
	if w.single && (!w.wholeNow() || w.faultsSince(w.now) > 0) {
		w.after(50*millis, w.goWrongAlone)
		return
	}
	last := int(numSingle)
	switch {
	case w.split:
		last = int(numSplit)
	case !w.single:
		last = int(numRough)
	}
	w.strikeAlone(FaultKind(w.rng.IntN(last)))
	w.after(w.between(20*millis, 800*millis), w.goWrongAlone)
}

// strikeAlone makes a fault happen now.
func (w *world) strikeAlone(kind FaultKind) {
	d := w.between(20*millis, 900*millis)
	n := w.nodes[w.rng.IntN(2)]
	o := w.other(n)
	a := w.serves()
	switch kind {
	case CrashActive, HostOff, CrashStandby:
		if a == nil {
			return
		}
		if kind == CrashStandby {
			a = w.other(a)
		}
		a.crashAlone(kind == HostOff || w.chance(0.2))
	case CutLink, Reset:
		w.logf("reset")
		w.felt(0)
		w.reset()
	case FreezeEither:
		if w.chance(0.2) {
			d += w.startEmpty
			w.loneSeen.LongFreeze++
		}
		n.freeze(d)
	case SyncOneWay:
		w.block(d, n.machine, o.machine)
	case SyncBoth, Split:
		w.block(d, n.machine, o.machine)
		w.block(d, o.machine, n.machine)
		if kind == Split {
			w.logf("the networks are cut, too")
			w.loneSeen.LANCut++
			w.lanCut++
			w.after(d+w.between(0, 200*millis), func() { w.lanCut = max(w.lanCut-1, 0) })
		}
	case Unplug:
		w.block(d, n.machine, o.machine)
		w.block(d, o.machine, n.machine)
		w.unplug(n, d)
	case BackOnly:
		w.felt(d)
		w.unplug(n, d)
		w.after(w.between(0, 20*millis), func() { // as fitness.go has it
			if n.alive && w.unplugged[n.id] > 0 && w.unplugged[o.id] == 0 {
				n.shell.loop(n.shell.switchover)
			}
		})
	case Switchover:
		if a != nil {
			a.shell.loop(a.shell.switchover)
		}
	case Claim:
		w.claim()
	default:
		w.strikeTwice(kind, a)
	}
}

// strikeTwice is for what is two faults at a time.
func (w *world) strikeTwice(kind FaultKind, a *node) {
	d := w.between(50*millis, 900*millis)
	switch kind {
	case Newcomer:
		if a == nil {
			return
		}
		w.loneSeen.Newcomer++
		w.other(a).crashAlone(false)
		w.after(w.between(0, 200*millis), func() {
			if !w.healed {
				a.freeze(w.between(50*millis, 2*w.startEmpty))
			}
		})
	case Succeeded:
		if a == nil {
			return
		}
		a.freeze(d)
		w.after(d-w.between(0, 50*millis), func() {
			if s := w.serves(); s != nil && s != a && !w.healed {
				s.crashAlone(w.chance(0.5))
			}
		})
	case BothGo:
		w.nodes[0].crashAlone(false)
		w.after(w.between(0, 200*millis), func() {
			if !w.healed {
				w.nodes[1].crashAlone(false)
			}
		})
	case BothFreeze:
		w.nodes[0].freeze(d)
		w.nodes[1].freeze(d + w.between(0, 50*millis))
	}
}

// unplug takes the front and the back cable of n for d. It knows.
func (w *world) unplug(n *node, d nanos) {
	w.logf("%s is unplugged for %d ms", n.name, d/millis)
	w.loneSeen.Unplugged++
	w.unplugged[n.id]++
	w.after(d, func() {
		w.unplugged[n.id] = max(w.unplugged[n.id]-1, 0)
		if w.unplugged[n.id] == 0 && n.shell.speaks() {
			n.shell.announce() // as tun does when the carrier is back
		}
	})
}

// claim is one frame of a stranger, perhaps repeated by the network.
func (w *world) claim() {
	w.logf("a stranger claims the addresses")
	w.loneSeen.Claim++
	w.vip = nil
	w.after(1000*millis, w.resolve)
	times := 1
	if w.chance(0.3) {
		times = 2
	}
	for _, n := range w.nodes {
		if !n.alive || w.unplugged[n.id] > 0 {
			continue
		}
		life := n.life
		for range times {
			w.after(w.between(50*micros, millis), func() { n.run(life, func() { n.shell.hears("stranger") }) })
		}
	}
}

// resolve is when the hosts ask anew who has the addresses.
func (w *world) resolve() {
	if w.vip != nil {
		return
	}
	if a := w.serves(); a != nil && !a.frozen && w.unplugged[a.id] == 0 {
		w.vip = a
		return
	}
	w.after(1000*millis, w.resolve)
}

// crashAlone ends a process, or its host.
func (n *node) crashAlone(dark bool) {
	w := n.w
	if !n.alive {
		return
	}
	w.logf("crash of %s, host off %v", n.name, dark)
	if w.serves() == n {
		w.seen.CrashActive++
		if w.inside {
			w.seen.CrashInSnapshot++
		}
	}
	if o := w.other(n); n.core.Role() == replication.RoleActive && o.alive && o.shell.speaks() {
		w.dropped(n.alone(), n.table) // it may be one of two that have gone on
	}
	n.stop()
	n.dark = dark
	w.broken(n)
	d := w.between(30*millis, 700*millis)
	w.felt(d + 5*w.failure)
	n.begins(d)
}
