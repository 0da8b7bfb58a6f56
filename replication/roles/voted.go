package roles

import (
	"fmt"

	"lockstep/replication"
	"lockstep/replication/arbiter"
)

// Voted are the rules of one appliance of a pair with a witness. An appliance does not
// decide who is active; the voters do (package arbiter).
type Voted struct {
	a     VotedAppliance
	self  arbiter.Member
	state arbiter.State // newest that we were told

	// peer is the incarnation that the newest session was with.
	peer arbiter.Member
	// offered: the voters were asked to take the peer of this session into the
	// in-sync set. It stays set until they have taken it out again.
	offered bool
	// releasing: the session is lost, the gates stay closed until the voters have
	// taken the standby out.
	releasing bool
	// handing: a hand-over is under way, we are mute.
	handing bool
	yielded Nanos // of a hand-over: when the standby was let claim; Never: not yet
	// claim is our newest one until we act on it; nil: there is none.
	claim *arbiter.Claim
	actAt Nanos // when to look at it again
	// passed: somebody was active before the present epoch, and is not.
	passed bool

	lostAt  Nanos // when the newest session was lost; Never: none was
	lostWhy string
	unpark  Nanos // when a session that was put off is let go; Never: there is none
	mute    bool  // the lease was over at the last look
	lookAt  Nanos // when to look at it next
	proveAt Nanos // when to look for who is dead
}

const (
	// claimLook is how often it is looked whether we may act on a claim, leaseLook whether
	// we may speak, proofLook who is dead.
	claimLook = 5 * millis
	leaseLook = 100 * millis
	proofLook = 1000 * millis
	// parkTime is how long a session may wait for a role.
	parkTime = 100 * millis
)

// NewVoted returns the rules for this incarnation, which has no role yet.
func NewVoted(self arbiter.Member, a VotedAppliance, now Nanos) *Voted {
	return &Voted{a: a, self: self, yielded: Never, lostAt: Never, unpark: Never, lookAt: now, proveAt: now + proofLook}
}

// Session decides about a new session. The one before must be lost by then. Only an
// active and one that is not make a session, and only if the former standby is
// released and the other side does not follow an older epoch than the voters'. A
// standby whose store is whole keeps it until it is released, whether it knows that
// the voters have it in the in-sync set or not: its claim may be under way, and its
// store may be all that is left of the connections.
func (r *Voted) Session(now, _ Nanos, ours, theirs Said) Verdict {
	v := r.meet(ours, theirs)
	if v == Park {
		r.unpark = now + parkTime
	}
	return v
}

func (r *Voted) meet(ours, theirs Said) Verdict {
	role, epoch := r.a.Role(), r.a.Epoch()
	switch {
	case ours.Role != role || ours.Epoch != epoch || ours.InSync != r.a.InSync():
		return Stale // the peer decides on old news
	case role == replication.RoleActive && theirs.Role != replication.RoleActive && !r.releasing:
		r.peer, r.offered = theirs.member(), false
		return Begin
	case role == replication.RoleStandby && ours.InSync && theirs.InSync && theirs.Epoch == epoch:
		return Park
	case role != replication.RoleActive && theirs.Role == replication.RoleActive && theirs.Epoch >= max(epoch, r.state.Epoch):
		r.peer = theirs.member()
		r.claim = nil                    // somebody has claimed after us
		r.a.SetAble(theirs.Epoch, false) // the store is emptied now
		r.a.Follow(theirs.Epoch)
		return Begin
	}
	return Park
}

// SyncChanged implements Rules.
func (r *Voted) SyncChanged() {
	in := r.a.InSync()
	switch r.a.Role() {
	case replication.RoleActive:
		if in && r.a.Connected() && !r.offered {
			// From here on the standby may be in the set, whatever becomes of the
			// session: the gates stay closed until the voters have taken it out.
			r.offered = true
			r.a.AddStandby(r.peer)
		}
	case replication.RoleStandby:
		r.a.SetAble(r.a.Epoch(), in)
	}
}

// SessionLost is where an active asks to go on alone, and a standby finds out
// whether the active is dead.
func (r *Voted) SessionLost(now Nanos, why string) bool {
	if !r.a.CloseSession() {
		return false
	}
	r.lostAt, r.lostWhy = now, why
	switch r.a.Role() {
	case replication.RoleActive:
		if !r.offered {
			r.a.Release()
			r.a.Say(StandbyLostEarly, why)
			break
		}
		r.releasing = true
		r.a.RemoveStandby()
		r.a.Say(StandbyRemoved, why)
	case replication.RoleStandby:
		r.a.Release()
		r.a.SetAble(r.a.Epoch(), r.a.InSync())
		r.a.SeekProof(r.peer)
		r.a.Say(SessionEnded, why)
	}
	return true
}

// prove: who is not active and has no session finds out whether those are dead who may
// hold connections: then the voters need not wait for them.
func (r *Voted) prove() {
	if r.a.Role() == replication.RoleActive || r.a.Connected() {
		return
	}
	for _, m := range []arbiter.Member{r.state.Active, r.state.Standby} {
		if !m.None() && m.Node != r.self.Node {
			r.a.SeekProof(m)
		}
	}
}

// Decided acts on what the voters have decided.
func (r *Voted) Decided(now Nanos, d Decision) {
	state := d.State
	if state.Epoch != r.state.Epoch {
		r.passed = !r.state.Active.None()
	}
	r.state = state
	if d.Claim != nil {
		r.claim = d.Claim
	}
	if r.claim != nil && (r.claim.Epoch != state.Epoch || state.Active != r.self) {
		r.claim = nil // somebody else has claimed after us
	}
	// We may be another epoch's active, and somebody was between it and our claim: what
	// we have served is no longer ours.
	if r.a.Role() == replication.RoleActive && (r.claim != nil || state.Active != r.self && state.Epoch >= r.a.Epoch()) {
		r.deposed()
	}
	r.act(now)
	if r.releasing && d.Solo {
		r.releasing, r.offered = false, false
		r.a.Release()
		r.letGo()
		r.a.Say(GoesOnAlone, r.lostWhy)
	}
}

// Next implements Rules.
func (r *Voted) Next() Nanos {
	at := min(r.lookAt, r.proveAt, r.unpark)
	if r.claim != nil {
		at = min(at, r.actAt)
	}
	if r.yielded != Never {
		at = min(at, r.yielded+HandOverLimit)
	}
	return at
}

// Tick implements Rules.
func (r *Voted) Tick(now Nanos) {
	r.act(now)
	if now >= r.unpark {
		r.letGo()
	}
	if r.handing && r.yielded != Never && now >= r.yielded+HandOverLimit {
		r.Declined(now, ErrNotClaimed)
	}
	if now >= r.lookAt {
		r.lookAt = now + leaseLook
		r.look()
	}
	if now >= r.proveAt {
		r.proveAt = now + proofLook
		r.prove()
	}
}

// look tells when the lease has run out, and when it is back.
func (r *Voted) look() {
	active := r.a.Role() == replication.RoleActive
	over := active && !r.handing && !r.a.Leased(r.a.Epoch())
	if over == r.mute {
		return
	}
	r.mute = over
	switch {
	case over:
		r.a.Say(Unheard, "")
	case active:
		r.a.Announce()
		r.a.Say(HeardAgain, "")
	}
}

// letGo ends a session that was put off.
func (r *Voted) letGo() {
	r.unpark = Never
	r.a.Unpark()
}

// act acts on our claim once the voters let us speak for it. Whoever was not running
// after his claim finds, when he wakes, a claim that was good then; somebody else may
// have claimed since, whose word has not come yet. The lease tells: while it lasts
// nobody else is helped. Without it we could say nothing anyway.
func (r *Voted) act(now Nanos) {
	r.actAt = now + claimLook
	if c := r.claim; c != nil && r.a.Leased(c.Epoch) {
		r.claim = nil
		r.claimed(now, c)
	}
}

// claimed makes us the active: in place of one whose connections we hold, or with
// none.
func (r *Voted) claimed(now Nanos, c *arbiter.Claim) {
	since, why := now, "the active was silent"
	switch {
	case r.a.Connected():
		why = "the active handed over, or lost the witness"
	case r.lostAt != Never && now-r.lostAt < 60_000*millis:
		since, why = r.lostAt, r.lostWhy
	}
	if r.a.CloseSession() {
		r.a.Release()
	}
	r.offered, r.releasing = false, false
	// A standby that has just come in sync may not have told its voter yet.
	whole := c.Whole || c.InSet && r.a.InSync()
	if !whole || r.a.Continue(c.Epoch, since, why) != nil {
		lost := ""
		if r.passed {
			lost = "nobody who may have held connections was left, or heard of for pair.start_empty_after"
		}
		r.a.StartEmpty(c.Epoch, "the witness and this appliance agree; there are no connections to continue", lost)
	}
	r.letGo()
}

// deposed is where an active finds that it is none any more. It falls silent before
// anything else (invariant 4): the gates open then, and nobody is there any more to
// hear what they let out.
func (r *Voted) deposed() {
	r.handing, r.yielded = false, Never
	r.a.Mute()
	if r.a.CloseSession() || r.releasing {
		r.a.Release()
	}
	r.offered, r.releasing = false, false
	r.a.StepDown(fmt.Sprintf("%s is active in epoch %d", r.state.Active.Node, r.state.Epoch))
	r.letGo()
}

// Refused is of no use here: what SeekProof has found goes to the voters.
func (r *Voted) Refused(Nanos) {}

// Claimed is no reason to give way: the voters know who is active.
func (r *Voted) Claimed(Nanos, string) {}

// Handed implements Rules: the voters tell who hears of a hand-over.
func (r *Voted) Handed() bool { return false }

// Waits implements Rules: it is the voters that wait.
func (r *Voted) Waits() (Nanos, bool) { return Never, false }

// Stage implements Rules.
func (r *Voted) Stage() string {
	switch {
	case r.handing:
		return HandingOver
	case r.releasing:
		return "releasing"
	case r.claim != nil:
		return "claiming"
	}
	return r.a.Role().String()
}
