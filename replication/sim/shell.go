package sim

import (
	"lockstep/replication"
	"lockstep/replication/roles"
)

// shell is an appliance's role loop: it drives the rules of replication/roles, with a
// witness or without, which run in a real appliance, too, and is what they act on. What
// only one of the two sets wants is in voted.go and lonely.go.
type shell struct {
	*node
	rules    roles.Rules
	boot     roles.Boot
	speaking bool // what the engine is told by SetActive
	parked   *session
	ten      *tenure // our newest time as the active
	watches  int     // number of the look that counts
	claims   []string
	refused  bool // the peer's kernel has refused, in the present search
}

// driver is what a shell of one of the two sets of rules does in its own way.
type driver interface {
	mayNotSpeak() bool
	serveEpoch(epoch uint64) // the connections of epoch may speak from now on
	look()                   // is called after all that the core has done
	begun(of *session)       // replication over it begins
	claimed()                // somebody has claimed our addresses
}

// begin is a new incarnation's.
func (n *node) begin() {
	n.boot()
	n.shell, n.linked = &shell{node: n}, nil
	if n.w.duo != nil {
		n.driver = beginLone(n.shell)
	} else {
		n.driver = beginVoted(n.shell)
	}
	n.shell.watch()
}

// loop does something in the role loop, which then does what is due.
func (s *shell) loop(do func()) {
	s.later(s.w.between(0, s.w.loop), func() {
		do()
		s.turn()
	})
}

// turn is the end of each turn of the role loop: first what has come, then the time.
func (s *shell) turn() {
	for len(s.claims) > 0 {
		who := s.claims[0]
		s.claims = s.claims[1:]
		s.rules.Claimed(s.now(), who)
		s.driver.claimed()
	}
	if s.refused {
		s.refused = false
		s.rules.Refused(s.now())
	}
	s.rules.Tick(s.now())
	s.pump()
	s.watch()
}

// watch arranges the next look.
func (s *shell) watch() {
	d := 100 * millis
	if at := s.rules.Next(); at != roles.Never {
		d = min(max(at-s.now(), millis), d)
	}
	s.watches++
	no := s.watches
	s.later(d+s.w.between(0, s.w.loop), func() {
		if s.watches == no {
			s.turn()
		}
	})
}

func (s *shell) speaks() bool {
	return !s.silent() && s.core.Role() == replication.RoleActive
}

// announce claims the virtual addresses, several times; only who may speak does.
func (s *shell) announce() {
	for _, d := range []nanos{0, 10 * millis, 50 * millis, 200 * millis, 500 * millis, 1000 * millis} {
		s.serve(d, func() {
			if s.speaks() {
				s.hold()
			}
		})
	}
}

// hold is one announcement.
func (s *shell) hold() {
	if s.w.duo == nil {
		s.w.vip = s.node
		return
	}
	if s.w.unplugged[s.id] == 0 {
		s.w.vip = s.node
	}
	o := s.w.other(s.node)
	for range 2 {
		s.w.overLAN(s.node, o, func() { o.shell.hears(s.name) })
	}
}

// hears somebody claim our addresses.
func (s *shell) hears(who string) {
	s.claims = append(s.claims, who)
	s.loop(func() {})
}

// refuses: the kernel of the other one is there, and its process is not.
func (s *shell) refuses() bool {
	o := s.w.other(s.node)
	return !o.alive && !o.dark && !s.w.blocked(s.machine, o.machine) && !s.w.blocked(o.machine, s.machine)
}

// sessionLost tells the role loop.
func (s *shell) sessionLost(of *session) {
	s.loop(func() {
		if s.session == of && of != nil {
			s.w.logf("%s loses its session, %s", s.name, s.rules.Stage())
			s.rules.SessionLost(s.now(), "lost")
		}
	})
}

// leave: a session that the role loop has put off has ended.
func (s *shell) leave(of *session) {
	if s.parked == of {
		s.parked = nil
	}
}

// says is what it says of itself when a session is made.
func (s *shell) says() said {
	x := said{at: s.now(), Said: roles.Said{
		Node: s.name, Boot: s.boot, Role: s.core.Role(), Epoch: s.core.Epoch(), InSync: s.core.InSync(),
	}}
	if s.rules.Handed() && x.Role != replication.RoleStandby {
		x.Role, x.InSync = replication.RoleNone, true
	}
	if x.Role == replication.RoleActive {
		x.Holds = uint64(s.core.Stats().Connections)
	}
	return x
}

// meet is a new session at the role loop.
func (s *shell) meet(of *session, ours, theirs said) {
	if of.ended(s.node) || s.linked != of {
		return
	}
	if s.session != nil {
		s.w.pairSeen.Superseded++
	}
	s.rules.SessionLost(s.now(), "superseded")
	was := s.rules.Stage()
	switch s.rules.Session(s.now(), ours.at, ours.Said, theirs.Said) {
	case roles.Stale:
		s.w.pairSeen.Stale++
		of.close(s.node)
		return
	case roles.Park:
		s.w.pairSeen.Parked++
		s.unpark()
		s.parked = of
		return
	}
	s.w.logf("%s begins a session, was %s, is %v in %d", s.name, was, s.core.Role(), s.core.Epoch())
	s.session = of
	s.driver.begun(of)
	s.core.SetClock(s.now(), s.clock())
	if err := s.sh.Begin(s.now(), s.w.plan.version, sender{s.node, of}); err != nil {
		s.w.failf("%s begins a session: %v", s.name, err)
	}
	of.read(s.node)
}

// switchover is asked for by the operator, or because the networks here are down. It
// reports whether a hand-over begins.
func (s *shell) switchover() bool {
	if s.rules.HandOver(s.now()) != nil {
		return false
	}
	s.w.logf("%s hands over", s.name)
	s.w.pairSeen.HandOver++
	s.drain(s.now())
	return true
}

// drain waits until the standby has confirmed everything, or has had its time.
func (s *shell) drain(begun nanos) {
	if !s.core.Drained() && s.now() < begun+100*millis {
		s.later(millis, func() { s.drain(begun) })
		return
	}
	if err := s.rules.Drained(s.now()); err != nil {
		s.rules.Declined(s.now(), err)
	}
	s.turn()
}

// What the rules want, with a witness or without.

func (s *shell) Role() replication.Role { return s.core.Role() }
func (s *shell) Epoch() uint64          { return s.core.Epoch() }
func (s *shell) InSync() bool           { return s.core.InSync() }
func (s *shell) Connected() bool        { return s.session != nil }

func (s *shell) CloseSession() bool {
	of := s.session
	if of == nil {
		return false
	}
	if st := s.core.Stats(); st.SnapshotTotal > 0 && !st.CanTakeOver {
		s.w.seen.SnapshotCut++
	}
	s.session = nil
	s.sh.Detach()
	of.close(s.node)
	return true
}

func (s *shell) unpark() {
	if of := s.parked; of != nil {
		s.parked = nil
		of.close(s.node)
	}
}

func (s *shell) Follow(epoch uint64) {
	if err := s.core.SetRole(replication.RoleStandby, epoch); err != nil {
		s.w.failf("%s follows epoch %d: %v", s.name, epoch, err)
	}
	s.forget()
}

func (s *shell) Mute() { s.speaking = false }

func (s *shell) Say(roles.Event, string) {}

func (s *shell) StepDown(why string) {
	s.w.logf("%s steps down: %s", s.name, why)
	s.w.loseLivesOf(s.node)
	s.speaking = false
	for _, g := range s.ordered {
		g.dropped = g.dropped || !s.core.Protected(g.id)
	}
	s.table.closed = true
	if err := s.core.SetRole(replication.RoleNone, s.core.Epoch()); err != nil {
		s.w.failf("%s steps down: %v", s.name, err)
	}
	s.forget()
}

// serves lets the connections of epoch speak.
func (s *shell) serves(epoch uint64) {
	s.ten = &tenure{node: s.node, life: s.life, epoch: epoch, table: s.table, begun: s.w.now}
	s.w.tenure = s.ten
	s.w.epoch = max(s.w.epoch, epoch)
	s.speaking = true
	s.announce()
}
