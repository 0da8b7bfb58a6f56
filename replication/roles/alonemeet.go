package roles

import "lockstep/replication"

// Two appliances of a pair without a witness meet.

// Session implements Rules.
func (r *Alone) Session(now, saidAt Nanos, ours, theirs Said) Verdict {
	if r.begins(now, ours, theirs) != Begin {
		return Stale
	}
	r.saidAt = saidAt
	return Begin
}

func (r *Alone) begins(now Nanos, ours, theirs Said) Verdict {
	said := ours // of that only these can have changed
	said.Role, said.Epoch = r.a.Role(), r.a.Epoch()
	if r.handed {
		said.Role = replication.RoleNone
	}
	said.InSync = r.Handed() || r.whole()
	ours.InSync = ours.InSync && said.Role != replication.RoleActive
	if said.Role == replication.RoleNone && theirs.Role == replication.RoleActive {
		ours.InSync = ours.InSync && said.InSync // we may have heard of our successor elsewhere since
	}
	if ours != said {
		return Stale // the peer decides on old news
	}
	switch {
	case r.handed:
		return r.meetHandedOver(now, theirs)
	case said.Role == replication.RoleActive: // and not handing over: then ours would differ
		return r.meetAsActive(now, ours, theirs)
	case said.Role == replication.RoleStandby:
		r.meetAsStandby(now, theirs)
		return Stale
	}
	return r.meetAsCandidate(now, theirs)
}

// meetAsActive: we may be alone, or within our lease, or in doubt.
func (r *Alone) meetAsActive(now Nanos, ours, theirs Said) Verdict {
	switch {
	case theirs.Role == replication.RoleActive:
		if r.prevails(ours, theirs) {
			r.a.Say(PeerStepsDown, "") // it sees the same, and comes again
			return Stale
		}
		r.stepDown(now, "both appliances were active, and the peer is the newer one")
		return Stale
	case theirs.Role == replication.RoleStandby && theirs.InSync:
		// It may be taking over at this moment. When it hears that we live it gives its
		// store up, and comes again.
		return Stale
	case theirs.Role == replication.RoleNone && theirs.InSync && theirs.Epoch >= ours.Epoch:
		return Stale // it holds what it has handed over, not to us, and takes that back
	}
	if r.stage == doubting {
		switch another := !r.standby.none() && theirs.Boot != r.standby; {
		case theirs.Epoch > ours.Epoch || another && r.told:
			r.stepDown(now, "the peer had taken over, or the one before it, and is active no more")
			return Stale
		case another:
			return Stale // it says nothing of the one before it
		}
	}
	// It is not active and holds nothing, so nobody has taken over.
	epoch := max(ours.Epoch, theirs.Epoch)
	if r.stage != solitary {
		r.goOn(now, "the peer has not taken over")
	}
	if epoch > ours.Epoch && r.a.Raise(epoch) != nil {
		return Stale
	}
	r.lead(now, theirs.Boot)
	return Begin
}

func (r *Alone) lead(now Nanos, standby Boot) {
	r.enter(leading, now)
	r.standby = standby
}

// prevails: of two actives the one with the newer epoch goes on, which has continued
// something last; then the one that holds more; then the smaller name. Both sides decide
// by the same words.
func (r *Alone) prevails(ours, theirs Said) bool {
	switch {
	case ours.Epoch != theirs.Epoch:
		return ours.Epoch > theirs.Epoch
	case ours.Holds != theirs.Holds:
		return ours.Holds > theirs.Holds
	}
	return r.cfg.Smaller
}

// meetAsStandby: our store may still be continued. If the peer is active, it lives: it
// begins a session only with one that has given its store up. If it is not, nobody but
// us can continue what it had; who has handed over can, but not yet.
func (r *Alone) meetAsStandby(now Nanos, theirs Said) {
	handed := theirs.Role == replication.RoleNone && theirs.InSync && theirs.Epoch == r.a.Epoch()
	switch {
	case theirs.Role == replication.RoleActive:
		r.giveUp(now, "the active lives")
	case now > r.freshUntil(): // a hand-over has been taken back by then, too
		r.giveUp(now, "the active may have gone on without this standby")
	case handed:
		r.takeOver(now, r.a.Epoch()+1, "the active has handed over")
	default:
		r.takeOver(now, max(r.a.Epoch(), theirs.Epoch)+1, "the active is none any more")
	}
}

// meetAsCandidate: we hold nothing.
func (r *Alone) meetAsCandidate(now Nanos, theirs Said) Verdict {
	epoch := max(r.a.Epoch(), theirs.Epoch)
	switch {
	case theirs.Role == replication.RoleActive:
		r.knows = false
		r.a.Follow(epoch)
		r.enter(following, now)
		return Begin
	case theirs.InSync:
		return Stale // it decides first what becomes of what it holds
	case r.cfg.Smaller:
		r.startEmpty(now, epoch+1, "neither appliance holds connections; the smaller name goes first", r.knows)
		r.lead(now, theirs.Boot)
		return Begin
	}
	r.knows = false
	r.a.Follow(epoch + 1)
	r.enter(following, now)
	return Begin
}

// HandOver implements Rules.
func (r *Alone) HandOver(now Nanos) error {
	switch {
	case r.a.Role() != replication.RoleActive:
		return ErrNotActive
	case r.stage != leading || !r.a.Connected() || now >= r.a.Lease(): // it may have taken over
		return ErrNoStandby
	case !r.a.Replaceable():
		return ErrNotInSync
	}
	r.a.Mute()
	r.handing = true // from here on we say that we are not active
	return nil
}

// Drained implements Rules.
func (r *Alone) Drained(now Nanos) error {
	r.handedOver(now)
	return nil
}

// Declined implements Rules: whoever has handed over finds out by himself.
func (r *Alone) Declined(Nanos, error) {}

// handedOver lets the standby take over: it hears from us that we are no longer active.
// What it has not confirmed by then nobody was told. It may be out of hearing, or dead, so
// we forget nothing before somebody has taken over: we stay mute and ask, as any active
// whose lease is over, and go on if nobody has. By then the standby's store is not fresh.
func (r *Alone) handedOver(now Nanos) {
	if !r.handing {
		return // the session was lost meanwhile, which is the same
	}
	r.a.CloseSession()
	r.inDoubt(now, true)
	r.at = max(r.at, r.a.Lease()+r.doubtTime())
	r.handed, r.late = true, true
}

// meetHandedOver: the peer has heard that we are not active. We still hold what we had.
func (r *Alone) meetHandedOver(now Nanos, theirs Said) Verdict {
	switch {
	case theirs.Role == replication.RoleActive && theirs.Epoch > r.a.Epoch():
		r.stepDown(now, "handed over")
		return r.meetAsCandidate(now, theirs)
	case theirs.Role == replication.RoleStandby && theirs.InSync:
		return Stale // it takes over, or gives its store up if it is too late for that
	}
	r.handed = false // it does not take over: when it comes again it meets an active in doubt
	return Stale
}
