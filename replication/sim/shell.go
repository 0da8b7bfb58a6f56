package sim

import (
	"lockstep/replication"
	"lockstep/replication/arbiter"
	"lockstep/replication/roles"
)

// shell is an appliance's role loop in a world with voters: the rules of
// replication/roles, which run in a real appliance, too, and what they act on. It is
// the node's roles.Appliance.
type shell struct {
	*node
	rules    *roles.Voted
	lease    roles.Lease[nanos]
	speaking bool // what the engine is told by SetActive
	parked   *session
	inSync   bool // the last look
	watches  int  // number of the look that counts

	// News that the role loop has not taken yet, as in appliance/voter.
	waiting bool
	state   arbiter.State
	solo    bool
	claim   *arbiter.Claim
}

// begin is a new incarnation's.
func (n *node) begin() {
	n.boot()
	s := &shell{node: n}
	n.pair, n.driver = s, s
	n.decided = s.hear
	n.vote()
	s.rules = roles.NewVoted(n.self, s, n.now())
	s.watch()
}

// loop does something in the role loop, which then does what is due.
func (s *shell) loop(do func()) {
	s.later(s.w.between(0, s.w.loop), func() {
		do()
		s.turn()
	})
}

func (s *shell) turn() {
	s.rules.Tick(s.now())
	s.pump()
	s.watch()
}

// watch arranges the next look.
func (s *shell) watch() {
	s.watches++
	no := s.watches
	s.later(min(max(s.rules.Next()-s.now(), millis), 100*millis)+s.w.between(0, s.w.loop), func() {
		if s.watches == no {
			s.turn()
		}
	})
}

// hear runs in the voter: the lease counts at once, the news when the loop gets there.
func (s *shell) hear(r *arbiter.Ready) {
	s.lease.Grant(r.State.Epoch, r.Lease)
	if s.now() < r.Lease && s.speaking && s.lease.Until() == 0 {
		s.w.pairSeen.LeaseHeldBack++
	}
	if r.Claimed == nil && r.State == s.state && r.Solo == s.solo {
		return
	}
	s.state, s.solo = r.State, r.Solo
	if r.Claimed != nil {
		s.claim = r.Claimed
	}
	if s.waiting {
		return
	}
	s.waiting = true
	s.loop(func() {
		claim := s.claim
		s.waiting, s.claim = false, nil
		handing := s.rules.Handing()
		s.rules.Decided(s.now(), roles.Decision{State: s.state, Claim: claim, Solo: s.solo})
		if handing && !s.rules.Handing() {
			s.w.pairSeen.HandedOver++
		}
	})
}

// look finds whether the standby has come in sync, or fallen out of it.
func (s *shell) look() {
	if in := s.core.InSync(); in != s.inSync {
		s.inSync = in
		s.loop(s.rules.SyncChanged)
	}
}

// announce claims the virtual addresses, several times; only who may speak does.
func (s *shell) announce() {
	for _, d := range []nanos{0, 50 * millis, 150 * millis, 400 * millis} {
		s.serve(d, func() {
			if !s.silent() {
				s.w.vip = s.node
			}
		})
	}
}

// sessionLost tells the role loop.
func (s *shell) sessionLost(of *session) {
	s.loop(func() {
		if s.session == of && of != nil {
			s.w.logf("%s loses its session", s.name)
			s.rules.SessionLost(s.now(), "lost")
		}
	})
}

// meet is a new session at the role loop.
func (s *shell) meet(of *session, ours, theirs said) {
	if of.ended(s.node) || s.linked != of {
		return
	}
	if s.session != nil {
		s.w.pairSeen.Superseded++
		s.rules.SessionLost(s.now(), "lost")
	}
	switch s.rules.Session(s.now(), ours.at, ours.Said, theirs.Said) {
	case roles.Stale:
		s.w.pairSeen.Stale++
		of.close(s.node)
	case roles.Park:
		s.w.pairSeen.Parked++
		s.Unpark()
		s.parked = of
	case roles.Begin:
		s.inSync = false
		s.w.logf("%s begins a session, %v in %d", s.name, s.core.Role(), s.core.Epoch())
		if err := s.core.PeerJoined(s.now(), s.w.plan.version); err != nil {
			s.w.failf("%s begins a session: %v", s.name, err)
		}
		s.core.SetClock(s.now(), s.clock())
		s.session = of
		of.read(s.node)
	}
}

// switchover is asked for by the operator.
func (s *shell) switchover() {
	if s.rules.HandOver(s.now()) != nil {
		return
	}
	s.w.logf("%s hands over", s.name)
	s.w.pairSeen.HandOver++
	s.drain(s.now())
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

// seek finds proof that m is dead, for as long as FailureTimeout.
func (s *shell) seek(m arbiter.Member, until nanos) {
	o := s.w.other(s.node)
	switch {
	case s.now() >= until:
	case !o.alive && !o.dark && !s.w.blocked(s.machine, o.machine) && !s.w.blocked(o.machine, s.machine):
		s.w.logf("%s knows that %v is dead", s.name, m)
		s.tell(func() { s.arb.PeerGone(s.now(), m) })
	default:
		s.later(2*millis, func() { s.seek(m, until) })
	}
}

// fenced: somebody else has claimed since we did. What we do to our connections now
// is seen by nobody.
func (n *node) fenced() bool { return n.pair != nil && n.w.epoch > n.core.Epoch() }

var (
	_ roles.VotedAppliance = (*shell)(nil)
	_ driver               = (*shell)(nil)
)

func (s *shell) mayNotSpeak() bool { return !s.speaking || s.now() >= s.lease.Until() }

func (s *shell) said() said {
	return said{Said: roles.Said{
		Node: s.self.Node, Boot: bootOf(s.self), Role: s.core.Role(), Epoch: s.core.Epoch(), InSync: s.core.InSync(),
	}}
}

func (s *shell) leave(of *session) {
	if s.parked == of {
		s.parked = nil
	}
}

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
	of.close(s.node)
	return true
}

func (s *shell) Release() {
	if s.core.Role() == replication.RoleActive && !s.fenced() {
		s.w.logf("%s goes on alone", s.name)
		s.w.released(s)
	}
	s.core.PeerLost()
	s.pump()
}

func (s *shell) Unpark() {
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

func (s *shell) Continue(epoch uint64, _ nanos, _ string) error { return s.w.continues(s, epoch) }

func (s *shell) StartEmpty(epoch uint64, _, _ string) { s.w.startsEmpty(s, epoch) }

func (s *shell) Mute() { s.speaking = false }

func (s *shell) Unmute(why error) {
	s.w.logf("%s goes on: %v", s.name, why)
	s.w.pairSeen.HandOverRefused++
	s.speaking = true
	s.announce()
}

func (s *shell) Announce() {
	s.w.pairSeen.SpeaksAgain++
	s.announce()
}

func (s *shell) Say(roles.Event, string) {}

func (s *shell) StepDown(string) {
	s.w.logf("%s steps down", s.name)
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

// serveEpoch lets the connections of epoch speak.
func (s *shell) serveEpoch(epoch uint64) {
	s.lease.Serve(epoch)
	s.w.tenure = &tenure{node: s.node, life: s.life, epoch: epoch, table: s.table}
	s.speaking = true
	s.announce()
}

func (s *shell) Leased(epoch uint64) bool { return s.now() < s.lease.Of(epoch) }

func (s *shell) SetAble(epoch uint64, able bool) {
	s.tell(func() { s.arb.SetAble(s.now(), epoch, able) })
}

func (s *shell) AddStandby(m arbiter.Member) {
	s.w.tenure.rejoined = m
	s.tell(func() { s.arb.AddStandby(s.now(), m) })
}

func (s *shell) RemoveStandby() {
	s.tell(func() { s.arb.RemoveStandby(s.now()) })
}

func (s *shell) Yield(to string) error {
	for len(s.calls) > 0 {
		s.callNext()
	}
	if !s.alive {
		return roles.ErrLost
	}
	err := s.arb.Yield(s.now(), to)
	s.settle()
	return err
}

func (s *shell) SeekProof(m arbiter.Member) { s.seek(m, s.now()+s.w.failure) }
