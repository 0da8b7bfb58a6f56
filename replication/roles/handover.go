package roles

import "lockstep/replication"

// A hand-over is a takeover that nobody has to detect. The active falls silent, lets
// the standby confirm what is on its way, and asks the voters to let it claim.

// HandOver implements Rules.
func (r *Voted) HandOver(Nanos) error {
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

// Drained implements Rules.
func (r *Voted) Drained(now Nanos) error {
	if !r.handing || r.releasing || !r.a.Connected() {
		return ErrLost // it is about to be taken out, a wish that Yield would forget
	}
	if err := r.a.Yield(r.peer.Node); err != nil {
		return err
	}
	r.yielded = now
	return nil
}

// Declined implements Rules. The voter gives us no lease before it is certain that the
// standby will not claim.
func (r *Voted) Declined(_ Nanos, why error) {
	if !r.handing {
		return
	}
	r.handing, r.yielded = false, Never
	r.a.Unmute(why)
}
