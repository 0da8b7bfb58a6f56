package sim

import "lockstep/replication"

// machine is a host with one process: it runs, stands still, is dead; it has a clock
// of its own, and a disk.
type machine struct {
	w      *world
	name   string
	id     int // 0 and 1: appliances; 2: witness
	alive  bool
	frozen bool
	dark   bool // the host is off, too: its kernel refuses nothing
	life   int  // number of the present incarnation
	inbox  []func()

	offset nanos // of its clock
	ppm    nanos // its clock is so much too fast
	*voter       // nil in an oracle world
}

// now is what the machine takes the time for.
func (m *machine) now() nanos { return m.offset + m.w.now + m.w.now*m.ppm/1_000_000 }

func (m *machine) start() {
	m.life++
	m.alive, m.frozen, m.inbox = true, false, nil
}

// stop ends the process: what it still had to do is never done.
func (m *machine) stop() {
	m.life++
	m.alive, m.frozen, m.inbox = false, false, nil
}

// later does something in this incarnation.
func (m *machine) later(d nanos, do func()) {
	life := m.life
	m.w.after(d, func() { m.run(life, do) })
}

// run does something now, or when the machine wakes.
func (m *machine) run(life int, do func()) {
	switch {
	case !m.alive || m.life != life:
	case m.frozen:
		m.inbox = append(m.inbox, do)
	default:
		do()
	}
}

// wake lets a machine go on that stood still: all that has come or was due meanwhile
// happens now, in the order of its coming, or in another one.
func (m *machine) wake() {
	if !m.alive || !m.frozen {
		return
	}
	m.w.logf("%s wakes", m.name)
	m.frozen = false
	if m.id < 2 && m.w.nodes[m.id].fenced() && m.w.nodes[m.id].core.Role() == replication.RoleActive {
		m.w.pairSeen.FencedZombie++
	}
	if m.w.duo != nil && m.id < 2 && m.w.nodes[m.id].silent() && m.w.nodes[m.id].core.Role() == replication.RoleActive {
		m.w.loneSeen.WokeMute++
	}
	in := m.inbox
	m.inbox = nil
	if m.w.chance(0.5) {
		m.w.rng.Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
	}
	life := m.life
	for _, do := range in {
		m.run(life, do)
	}
}

// serve does something for the connections of the present table, some time later.
func (n *node) serve(d nanos, do func()) {
	t := n.table
	n.later(d, func() {
		if n.table == t {
			do()
			n.pump()
		}
	})
}
