package sim

import (
	"errors"

	"lockstep/replication/arbiter"
)

// voter is a machine's voter: the arbiter's core and the simplest shell around it. It
// runs beside the role loop, which hears of what is decided some time later.
type voter struct {
	self    arbiter.Member
	arb     *arbiter.Core
	ticks   int // number of the tick that counts
	disk    []byte
	joined  bool // its disk remembers
	wiped   bool // it has lost its disk and does not vote yet
	state   arbiter.State
	counted arbiter.Counters
	calls   []func() // of the role loop, in their order

	// decided tells the appliance; nil at the witness.
	decided func(*arbiter.Ready)
}

// vote begins a new incarnation with what the disk says.
func (m *machine) vote() {
	w := m.w
	w.boots++
	m.self = arbiter.Member{Node: m.name, Boot: w.boots<<8 | w.rng.Uint64()<<40 | 1}
	m.calls, m.state, m.counted = nil, arbiter.State{}, arbiter.Counters{}
	core, err := arbiter.New(arbiter.Config{
		Self: m.self, Appliances: [2]string{"a", "b"}, Witness: "w",
		Heartbeat: w.heartbeat, FailureTimeout: w.failure, Patience: w.startEmpty, Stored: m.disk,
	})
	if err != nil {
		w.failf("%s begins to vote: %v", m.name, err)
		return
	}
	m.arb = core
	w.logf("%v starts, disk %d bytes", m.self, len(m.disk))
	m.tick()
}

func (m *machine) tick() {
	m.arb.Tick(m.now())
	if !m.settle() {
		return
	}
	d := min(m.arb.NextTick(m.now())-m.now(), m.w.heartbeat) + m.w.between(0, 2*millis)
	m.ticks++
	no := m.ticks
	m.later(d, func() {
		if m.ticks == no {
			m.tick()
		}
	})
}

// tell calls the voter from the role loop: later, but in order.
func (m *machine) tell(do func()) {
	m.calls = append(m.calls, do)
	m.later(m.w.between(0, m.w.loop/2), m.callNext)
}

func (m *machine) callNext() {
	if len(m.calls) > 0 {
		do := m.calls[0]
		m.calls = m.calls[1:]
		do()
		m.settle()
	}
}

// settle carries out what the core has ready. False: the process has died over it.
func (m *machine) settle() bool {
	w := m.w
	r := m.arb.Ready()
	if r.Persist != nil {
		if w.mayCrash(m) {
			return false // before it was written
		}
		m.disk = r.Persist
		if w.mayCrash(m) {
			return false
		}
	}
	for _, msg := range r.Messages {
		w.carry(m, w.machines[int(msg.To[0]-'a')%20], msg.Data)
	}
	m.joined = m.joined || r.Joined
	if m.wiped && r.Joined {
		m.wiped = false
		w.pairSeen.DiskLostRejoined++
	}
	if r.State != m.state {
		w.logf("%v: epoch %d, %v and %v", m.self, r.State.Epoch, r.State.Active, r.State.Standby)
		m.state = r.State
		w.epoch = max(w.epoch, r.State.Epoch)
		w.settle(m)
	}
	if c := m.arb.Counters(); c.Forced > m.counted.Forced {
		w.pairSeen.Forced++
		m.counted = c
	}
	if m.decided != nil {
		m.decided(r)
	}
	return true
}

// carry takes a voter's message over the network: perhaps not, perhaps twice, late,
// or out of order.
func (w *world) carry(from, to *machine, data []byte) {
	times := 1
	if w.chance(w.dupVotes) {
		times = 2
	}
	for range times {
		if w.blocked(from, to) || w.chance(w.lossVotes) {
			continue
		}
		d := w.between(50*micros, millis)
		if w.chance(w.slowVotes) {
			d += w.between(0, w.lateVotes)
		}
		sender := from.self
		w.after(d, func() {
			to.run(to.life, func() {
				err := to.arb.Step(to.now(), sender, data)
				if err != nil && !errors.Is(err, arbiter.ErrGone) && !errors.Is(err, arbiter.ErrContra) {
					w.failf("%v: %v", to.self, err)
				}
				to.settle()
			})
		})
	}
}
