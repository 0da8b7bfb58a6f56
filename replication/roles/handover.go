package roles

import "lockstep/replication"

// A hand-over is a takeover that nobody has to detect. The active falls silent, lets
// the standby confirm what is on its way, and asks the voters to let it claim.

// Error is a constant error of this package.
type Error string

func (e Error) Error() string { return string(e) }

const (
	ErrNotActive  Error = "this appliance is not active"
	ErrNoStandby  Error = "no standby is connected"
	ErrNotInSync  Error = "the standby is not in sync: a switchover would lose connections (see `lockstep status`)"
	ErrHandingNow Error = "a switchover is under way"
	ErrNotKnown   Error = "the witness does not know yet that the standby is in sync: try again"
	ErrLost       Error = "the standby was lost"
)

// HandOver begins a hand-over: we are mute. Call Drained when the standby has
// confirmed everything or has had its time, and Refused when it should have claimed
// and has not. An error says why there is none.
func (r *Rules) HandOver() error {
	switch {
	case r.a.Role() != replication.RoleActive:
		return ErrNotActive
	case r.handing:
		return ErrHandingNow
	case !r.a.Connected():
		return ErrNoStandby
	case !r.a.InSync():
		return ErrNotInSync
	case r.state.Standby != r.peer:
		return ErrNotKnown
	}
	r.handing = true
	r.a.Mute()
	return nil
}

// Drained lets the standby claim. After an error it was not asked to, and Refused
// follows.
func (r *Rules) Drained() error {
	if r.releasing || !r.a.Connected() {
		return ErrLost // it is about to be taken out, a wish that Yield would forget
	}
	return r.a.Yield(r.peer.Node)
}

// Refused is where the standby has not claimed: we go on. The voter gives us no
// lease before it is certain that the other will not.
func (r *Rules) Refused() {
	r.handing = false
	r.a.Unmute()
}
