package sim

import "lockstep/replication"

// decider decides who may serve. It is the seam for the witness and Raft: an
// implementation that exchanges messages would answer through the nodes' events.
type decider interface {
	// First makes n the active of a pair that has never run.
	First(n *node) (epoch uint64)
	// InSync is the active's claim that its standby is in sync.
	InSync(active *node)
	// Alone asks for the standby to be out of the in-sync set, for good: only then
	// may the active go on without it. False: the active itself is deposed.
	Alone(active *node) bool
	// Take asks for the active's place. With whole the standby may continue its
	// connections; otherwise it starts empty, which is possible only because the
	// active is known to be dead.
	Take(standby *node) (epoch uint64, whole, ok bool)
	// Epoch is the newest.
	Epoch() uint64
}

// oracle is an arbiter that is always reachable and never wrong. Deposing mutes the
// old active in the same instant, as its lease would have run out before.
type oracle struct {
	epoch  uint64
	active *node
	inSync bool
	holder int // life of the standby that is in sync: the next one has nothing
}

func (o *oracle) First(n *node) uint64 {
	o.epoch++
	o.active = n
	return o.epoch
}

func (o *oracle) Epoch() uint64 { return o.epoch }

func (o *oracle) InSync(n *node) {
	if o.active == n {
		o.inSync, o.holder = true, n.w.other(n).life
	}
}

func (o *oracle) Alone(n *node) bool {
	if o.active != n {
		return false
	}
	o.inSync = false
	return true
}

func (o *oracle) Take(n *node) (epoch uint64, whole, ok bool) {
	serves := o.active.alive && o.active.core.Role() == replication.RoleActive
	if serves && (o.active == n || !o.inSync) {
		return 0, false, false
	}
	// Who has restarted has forgotten what it served, or held.
	whole = o.inSync && o.active != n && o.holder == n.life
	if o.active != n {
		o.active.muted = true
	}
	o.active, o.inSync = n, false
	o.epoch++
	return o.epoch, whole, true
}
