package roles

import (
	"lockstep/replication"
	"lockstep/replication/arbiter"
)

// Appliance is what the rules act on. Each call has its effect before it returns,
// but those to the voter, which happen in their order some time later.
type Appliance interface {
	Role() replication.Role
	Epoch() uint64   // of the role
	InSync() bool    // see replication.Core.InSync
	Connected() bool // a session is up

	// CloseSession ends the session and leaves the core's gates as they are. False:
	// there is none.
	CloseSession() bool
	// Release tells the core that the session is over for good (PeerLost): on an
	// active every gate opens, on a standby the store stays for Continue.
	Release()
	// Unpark lets go of a session that Session put off, so that both sides meet again
	// and say what they are by then.
	Unpark()

	// Follow makes us the standby of the active of that epoch, with an empty store.
	Follow(epoch uint64)
	// Continue makes us the active of that epoch with the connections of our store;
	// after an error nothing has changed.
	Continue(epoch uint64) error
	// StartEmpty makes us the active of that epoch with no connections.
	StartEmpty(epoch uint64)
	// Mute lets nothing out any more until Unmute, Continue or StartEmpty.
	Mute()
	Unmute()
	// StepDown mutes us, forgets all connections, and leaves us without a role.
	StepDown()

	// Leased reports whether the voters let us speak for that epoch at this moment: then
	// none is served that is newer.
	Leased(epoch uint64) bool
	// SetAble, AddStandby, RemoveStandby: see arbiter.Core.
	SetAble(epoch uint64, able bool)
	AddStandby(m arbiter.Member)
	RemoveStandby()
	// Yield lets the standby claim. An error says that it was not asked to.
	Yield(to string) error
	// SeekProof finds out whether m's process is dead, and tells the voter if it is.
	SeekProof(m arbiter.Member)
}

// Rules are the rules of one appliance. Its methods must not run concurrently.
type Rules struct {
	a     Appliance
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
	// claim is our newest one until we act on it; nil: there is none.
	claim *arbiter.Claim
}

// New returns the rules for this incarnation, which has no role yet.
func New(self arbiter.Member, a Appliance) *Rules { return &Rules{a: a, self: self} }

// State is the newest state of the voters that Decided was told.
func (r *Rules) State() arbiter.State { return r.state }

// Peer is the incarnation that the newest session was with.
func (r *Rules) Peer() arbiter.Member { return r.peer }

// Handing reports whether a hand-over is under way.
func (r *Rules) Handing() bool { return r.handing }

// Releasing reports whether the gates of a lost session wait for the voters.
func (r *Rules) Releasing() bool { return r.releasing }

// Said is what one side said of itself when a session was made.
type Said struct {
	Role  replication.Role
	Epoch uint64
	// InSync: of a standby, its store is whole; of an active, its standby was in sync
	// and is not released, so the voters may have it in the in-sync set.
	InSync bool
}

// Verdict is what a new session is good for.
type Verdict int

const (
	Stale Verdict = iota // close it: what we said of ourselves has changed since
	Park                 // keep it until Unpark: closing it at once would make both dial in a loop
	Begin                // replicate over it, with the role and epoch that we have now
)

// Session decides about a new session. The one before must be lost by then. Only an
// active and one that is not make a session, and only if the former standby is
// released and the other side does not follow an older epoch than the voters'. A
// standby whose store is whole keeps it until it is released, whether it knows that
// the voters have it in the in-sync set or not: its claim may be under way, and its
// store may be all that is left of the connections.
func (r *Rules) Session(ours, theirs Said, peer arbiter.Member) Verdict {
	role, epoch := r.a.Role(), r.a.Epoch()
	switch {
	case ours != Said{role, epoch, r.a.InSync()}:
		return Stale // the peer decides on old news
	case role == replication.RoleActive && theirs.Role != replication.RoleActive && !r.releasing:
		r.peer, r.offered = peer, false
		return Begin
	case role == replication.RoleStandby && ours.InSync && theirs.InSync && theirs.Epoch == epoch:
		return Park
	case role != replication.RoleActive && theirs.Role == replication.RoleActive && theirs.Epoch >= max(epoch, r.state.Epoch):
		r.peer = peer
		r.claim = nil                    // somebody has claimed after us
		r.a.SetAble(theirs.Epoch, false) // the store is emptied now
		r.a.Follow(theirs.Epoch)
		return Begin
	}
	return Park
}

// SyncChanged hears that InSync may have changed, on either side.
func (r *Rules) SyncChanged() {
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
// whether the active is dead. It reports false if there was no session.
func (r *Rules) SessionLost() bool {
	if !r.a.CloseSession() {
		return false
	}
	switch r.a.Role() {
	case replication.RoleActive:
		if !r.offered {
			r.a.Release()
			break
		}
		r.releasing = true
		r.a.RemoveStandby()
	case replication.RoleStandby:
		r.a.Release()
		r.a.SetAble(r.a.Epoch(), r.a.InSync())
		r.a.SeekProof(r.peer)
	}
	return true
}

// Look is to be called now and then. Who is not active and has no session finds out
// whether those are dead who may hold connections: then the voters need not wait for
// them.
func (r *Rules) Look() {
	if r.a.Role() == replication.RoleActive || r.a.Connected() {
		return
	}
	for _, m := range []arbiter.Member{r.state.Active, r.state.Standby} {
		if !m.None() && m.Node != r.self.Node {
			r.a.SeekProof(m)
		}
	}
}

// Decided acts on what the voters have decided: their newest state, our newest claim
// since the last call if there is one, and arbiter.Ready.Solo.
func (r *Rules) Decided(state arbiter.State, claim *arbiter.Claim, solo bool) {
	r.state = state
	if claim != nil {
		r.claim = claim
	}
	if r.claim != nil && (r.claim.Epoch != state.Epoch || state.Active != r.self) {
		r.claim = nil // somebody else has claimed after us
	}
	// We may be another epoch's active, and somebody was between it and our claim: what
	// we have served is no longer ours.
	if r.a.Role() == replication.RoleActive && (r.claim != nil || state.Active != r.self && state.Epoch >= r.a.Epoch()) {
		r.deposed()
	}
	r.Tick()
	if r.releasing && solo {
		r.releasing, r.offered = false, false
		r.a.Release()
		r.a.Unpark()
	}
}

// claimLook is how often it is looked whether we may act on a claim.
const claimLook = 5 * millis

// Next is in what time Tick has something to do; Never: when something is heard.
func (r *Rules) Next() Nanos {
	if r.claim != nil {
		return claimLook
	}
	return Never
}

// Tick acts on our claim once the voters let us speak for it. Whoever was not running
// after his claim finds, when he wakes, a claim that was good then; somebody else may
// have claimed since, whose word has not come yet. The lease tells: while it lasts
// nobody else is helped. Without it we could say nothing anyway.
func (r *Rules) Tick() {
	if c := r.claim; c != nil && r.a.Leased(c.Epoch) {
		r.claim = nil
		r.claimed(c)
	}
}

// claimed makes us the active: in place of one whose connections we hold, or with
// none.
func (r *Rules) claimed(c *arbiter.Claim) {
	if r.a.CloseSession() {
		r.a.Release()
	}
	r.offered, r.releasing = false, false
	if !c.Whole || r.a.Continue(c.Epoch) != nil {
		r.a.StartEmpty(c.Epoch)
	}
	r.a.Unpark()
}

// deposed is where an active finds that it is none any more. It falls silent before
// anything else (invariant 4): the gates open then, and nobody is there any more to
// hear what they let out.
func (r *Rules) deposed() {
	r.handing = false
	r.a.Mute()
	if r.a.CloseSession() || r.releasing {
		r.a.Release()
	}
	r.offered, r.releasing = false, false
	r.a.StepDown()
	r.a.Unpark()
}
