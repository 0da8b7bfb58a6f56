package sim

import (
	"encoding/binary"

	"lockstep/replication"
	"lockstep/replication/arbiter"
	"lockstep/replication/roles"
)

// voted is the shell of an appliance whose pair has a witness.
type voted struct {
	*shell
	lease  roles.Lease[nanos]
	inSync bool // the last look

	// News that the role loop has not taken yet, as in appliance/voter.
	waiting bool
	state   arbiter.State
	solo    bool
	claim   *arbiter.Claim
}

var (
	_ roles.VotedAppliance = (*voted)(nil)
	_ driver               = (*voted)(nil)
)

func beginVoted(s *shell) *voted {
	v := &voted{shell: s}
	s.driver, s.decided = v, v.hear
	s.vote()
	binary.BigEndian.PutUint64(s.boot[:], s.self.Boot)
	s.rules = roles.NewVoted(s.self, v, s.now())
	return v
}

// hear runs in the voter: the lease counts at once, the news when the loop gets there.
func (v *voted) hear(r *arbiter.Ready) {
	v.lease.Grant(r.State.Epoch, r.Lease)
	if v.now() < r.Lease && v.speaking && v.lease.Until() == 0 {
		v.w.pairSeen.LeaseHeldBack++
	}
	if r.Claimed == nil && r.State == v.state && r.Solo == v.solo {
		return
	}
	v.state, v.solo = r.State, r.Solo
	if r.Claimed != nil {
		v.claim = r.Claimed
	}
	if v.waiting {
		return
	}
	v.waiting = true
	v.loop(func() {
		claim := v.claim
		v.waiting, v.claim = false, nil
		handing := v.handing()
		v.rules.Decided(v.now(), roles.Decision{State: v.state, Claim: claim, Solo: v.solo})
		if handing && !v.handing() {
			v.w.pairSeen.HandedOver++
		}
	})
}

func (s *shell) handing() bool { return s.rules.Stage() == roles.HandingOver }

// look finds whether the standby has come in sync, or fallen out of it.
func (v *voted) look() {
	if in := v.core.InSync(); in != v.inSync {
		v.inSync = in
		v.loop(v.rules.SyncChanged)
	}
}

func (v *voted) begun(*session)    { v.inSync = false }
func (v *voted) claimed()          {}
func (v *voted) mayNotSpeak() bool { return !v.speaking || v.now() >= v.lease.Until() }

func (v *voted) serveEpoch(epoch uint64) {
	v.lease.Serve(epoch)
	v.serves(epoch)
}

// fenced: somebody else has claimed since we did. What we do to our connections now
// is seen by nobody.
func (n *node) fenced() bool {
	return n.shell != nil && n.w.duo == nil && n.w.epoch > n.core.Epoch()
}

func (v *voted) Release() {
	if v.core.Role() == replication.RoleActive && !v.fenced() {
		v.w.logf("%s goes on alone", v.name)
		v.w.released(v)
	}
	v.sh.With(v.now(), (*replication.Core).PeerLost)
}

func (v *voted) Continue(epoch uint64, _ nanos, _ string) error { return v.w.continues(v, epoch) }

func (v *voted) StartEmpty(epoch uint64, _, _ string) { v.w.startsEmpty(v, epoch) }

func (v *voted) Unpark() { v.unpark() }

func (v *voted) Unmute(why error) {
	v.w.logf("%s goes on: %v", v.name, why)
	v.w.pairSeen.HandOverRefused++
	v.speaking = true
	v.announce()
}

func (v *voted) Announce() {
	v.w.pairSeen.SpeaksAgain++
	v.announce()
}

func (v *voted) Leased(epoch uint64) bool { return v.now() < v.lease.Of(epoch) }

func (v *voted) SetAble(epoch uint64, able bool) {
	v.tell(func() { v.arb.SetAble(v.now(), epoch, able) })
}

func (v *voted) AddStandby(m arbiter.Member) {
	v.w.tenure.rejoined = m
	v.tell(func() { v.arb.AddStandby(v.now(), m) })
}

func (v *voted) RemoveStandby() {
	v.tell(func() { v.arb.RemoveStandby(v.now()) })
}

func (v *voted) Yield(to string) error {
	for len(v.calls) > 0 {
		v.callNext()
	}
	if !v.alive {
		return roles.ErrLost
	}
	err := v.arb.Yield(v.now(), to)
	v.settle()
	return err
}

func (v *voted) SeekProof(m arbiter.Member) { v.seek(m, v.now()+v.w.failure) }

// seek finds proof that m is dead, for a while.
func (v *voted) seek(m arbiter.Member, until nanos) {
	switch {
	case v.now() >= until:
	case v.refuses():
		v.w.logf("%s knows that %v is dead", v.name, m)
		v.tell(func() { v.arb.PeerGone(v.now(), m) })
	default:
		v.later(2*millis, func() { v.seek(m, until) })
	}
}
