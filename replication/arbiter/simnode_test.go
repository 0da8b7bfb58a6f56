package arbiter

import "errors"

// simNode is a voter with the simplest shell: a disk, a clock, a store of which only
// matters whether it is complete.
type simNode struct {
	w      *world
	id     int
	name   string
	self   Member
	offset Nanos
	ppm    Nanos // its clock is this much too fast

	core   *Core
	disk   []byte
	alive  bool
	whole  bool // its disk remembers
	wiped  bool // it has lost its disk and does not vote yet
	frozen bool
	wakeNo int
	inbox  []func()
	life   int
	ticks  int // number of the tick that counts

	// What the shell was told last.
	state   State
	lease   Nanos
	solo    bool
	lead    bool
	yielded uint64 // epoch
	asked   bool   // RemoveStandby was called for the present standby
	spoke   bool   // when it was frozen
	count   Counters
}

// clock is what the node takes the time for.
func (n *simNode) clock() Nanos { return n.offset + n.w.now + n.w.now*n.ppm/1_000_000 }

// speaks: what the packet filter of the shell asks.
func (n *simNode) speaks() bool {
	return n.alive && n.state.Active == n.self && n.clock() < n.lease
}

func (n *simNode) other() *simNode { return n.w.nodes[1-n.id] }

// off lets the node start in d.
func (n *simNode) off(d Nanos) {
	n.alive, n.frozen = false, false
	n.life++
	life := n.life
	n.w.after(d, func() {
		if n.life == life {
			n.boot()
		}
	})
}

func (n *simNode) boot() {
	w := n.w
	w.boots++
	n.self = Member{Node: n.name, Boot: w.boots<<8 | w.rng.Uint64()<<40 | 1}
	n.inbox, n.state, n.lease, n.solo, n.lead, n.asked = nil, State{}, 0, false, false, false
	n.count = Counters{}
	core, err := New(Config{
		Self: n.self, Appliances: [2]string{"b", "a"}, Witness: "w",
		Heartbeat: w.heartbeat, FailureTimeout: w.failure, Patience: w.patience, Stored: n.disk,
	})
	if err != nil {
		w.failf("%s starts: %v", n.name, err)
		return
	}
	core.limit = w.limit
	n.core, n.alive = core, true
	w.logf("%v starts, disk %d bytes", n.self, len(n.disk))
	if n.id == 2 && w.check.speaker() != nil {
		w.seen.WitnessRestartInLease++
	}
	n.tick()
}

// crash ends the process. Those who can reach its host learn that it is dead. The
// disk stays, but one disk may be lost while the other two are whole.
func (n *simNode) crash() {
	w := n.w
	if !n.alive {
		return
	}
	w.logf("%v crashes", n.self)
	n.off(w.between(5*millisecond, 600*millisecond))
	dead := n.self
	for _, o := range w.nodes {
		if o != n && w.chance(0.7) {
			n, o := n, o
			w.after(w.between(0, 60*millisecond), func() {
				if !w.cut[o.id][n.id] {
					o.run(func() { o.core.PeerGone(o.clock(), dead) })
				}
			})
		}
	}
	others := 0
	for _, o := range w.nodes {
		if o != n && o.whole {
			others++
		}
	}
	if n.whole && others == 2 && w.chance(0.3) {
		w.logf("%s loses its disk", n.name)
		n.disk, n.whole, n.wiped = nil, false, true
		w.seen.DiskLost++
	}
}

func (n *simNode) freeze(d Nanos) {
	if !n.alive || n.frozen {
		return
	}
	n.w.logf("%v freezes for %d ms", n.self, d/millisecond)
	n.frozen, n.spoke = true, n.speaks()
	n.wakeNo++
	no := n.wakeNo
	n.w.after(d, func() {
		if n.wakeNo == no {
			n.wake()
		}
	})
}

// wake: what has come in meanwhile is read first or the timer runs first.
func (n *simNode) wake() {
	if !n.alive || !n.frozen {
		return
	}
	n.w.logf("%v wakes", n.self)
	n.frozen = false
	if o := n.w.check.speaker(); n.spoke && o != nil && o != n {
		n.w.seen.ZombieWoken++
	}
	if n.w.chance(0.5) {
		n.tick()
	}
	in := n.inbox
	n.inbox = nil
	for _, do := range in {
		do()
		if !n.alive {
			return
		}
		n.pump()
	}
	n.tick()
}

// run does something in the node, when it is awake.
func (n *simNode) run(do func()) {
	switch {
	case !n.alive:
	case n.frozen:
		n.inbox = append(n.inbox, do)
	default:
		do()
		n.pump()
	}
}

func (n *simNode) arrive(from Member, data []byte) {
	life := n.life
	n.run(func() {
		if n.life != life {
			return
		}
		switch err := n.core.Step(n.clock(), from, data); {
		case err == nil:
		case errors.Is(err, ErrGone):
			n.w.seen.OldIncarnation++
		case errors.Is(err, ErrContra): // meant for one with a disk
		default:
			n.w.failf("%v: %v", n.self, err)
		}
	})
}

func (n *simNode) tick() {
	if !n.alive || n.frozen {
		return
	}
	n.core.Tick(n.clock())
	n.pump()
	if !n.alive {
		return
	}
	d := min(n.core.NextTick(n.clock())-n.clock(), n.w.heartbeat) + n.w.between(0, 2*millisecond)
	n.ticks++
	no, life := n.ticks, n.life
	n.w.after(d, func() {
		if n.life == life && n.ticks == no {
			n.tick()
		}
	})
}

// pump carries out Ready.
func (n *simNode) pump() {
	w := n.w
	r := n.core.Ready()
	if r.Persist != nil {
		_, _ = w.trace.Write(r.Persist)
		n.disk = r.Persist
		if !w.healed && w.chance(0.002) {
			w.seen.CrashAfterPersist++
			n.crash()
			return
		}
	}
	for _, m := range r.Messages {
		n.w.send(n, map[string]int{"a": 0, "b": 1, "w": 2}[m.To], m.Data)
	}
	if r.Joined {
		n.whole = true
		if n.wiped {
			n.wiped = false
			w.seen.DiskLostRejoined++
		}
	}
	if r.State != n.state {
		w.logf("%v: %d %v+%v", n.self, r.State.Epoch, r.State.Active, r.State.Standby)
	}
	n.state, n.lease, n.lead = r.State, r.Lease, r.Leader
	if r.Claimed != nil {
		w.logf("%v claims %d whole=%v", n.self, r.Claimed.Epoch, r.Claimed.Whole)
		w.check.claimed(n, r.Claimed)
		n.asked = false
	}
	if n.solo = r.Solo; n.solo {
		w.check.alone(n)
	}
	w.check.counted(n)
	n.serve()
}

// serve is the shell's part: a standby is added some time after it is heard, and
// removed when it is silent.
func (n *simNode) serve() {
	if n.id == 2 || !n.lead || n.state.Active != n.self {
		return
	}
	o := n.other()
	life := n.life
	switch standby := n.state.Standby; {
	case standby.None() && o.alive && !n.w.cut[0][1] && !n.w.cut[1][0] && n.w.chance(0.05):
		m, epoch := o.self, n.state.Epoch
		n.asked = false
		o.run(func() { // all is copied: the session began anew
			if o.self == m && n.life == life && n.state.Epoch == epoch {
				o.core.SetAble(o.clock(), epoch, true)
				n.run(func() {
					if n.life == life && n.state.Epoch == epoch {
						n.w.check.added(m)
						n.core.AddStandby(n.clock(), m)
					}
				})
			}
		})
	case !standby.None() && !n.asked && (!o.alive || o.frozen || o.self != standby) && n.w.chance(0.3):
		n.remove()
	}
}

func (n *simNode) remove() {
	n.run(func() {
		if n.state.Active == n.self && !n.state.Standby.None() {
			n.w.logf("%v removes %v", n.self, n.state.Standby)
			n.asked = true
			n.core.RemoveStandby(n.clock())
		}
	})
}

// unable: the standby's store has become useless, without the active knowing yet.
func (n *simNode) unable() {
	n.run(func() {
		if n.state.Standby == n.self {
			n.core.SetAble(n.clock(), n.state.Epoch, false)
		}
	})
}

func (n *simNode) yield() {
	n.run(func() {
		if n.state.Active != n.self || n.state.Standby.None() {
			return
		}
		if err := n.core.Yield(n.clock(), n.state.Standby.Node); err == nil {
			n.w.logf("%v yields", n.self)
			n.w.seen.Yield++
			n.yielded = n.state.Epoch
		}
	})
}
