package kept

import (
	"lockstep/replication"
	"lockstep/stack"
)

// lose gives up one server's leg. Its server is reset: should it be alive, it must
// not go on with half a connection.
func (k *Kept) lose(r *replica, why string) {
	if r == k.source {
		k.lostAt, k.lostWhy, k.retryAt = k.host.Now(), why, 0
		k.claim = claim{}
		k.formerTo = k.heldAt + uint64(len(k.held))
		k.drain.On.Store(false)
		k.svc.counts.lost.Add(1)
		k.svc.note(Loss{Server: r.server, Why: why, Conn: k.id, Source: true})
	} else if r.leg.Established() {
		k.svc.note(Loss{Server: r.server, Why: why, Conn: k.id})
	}
	k.letGo() // of one before it
	proves := r == k.source && k.proof == nil && r.recorded.Load() && !k.safe()
	if k.remove(r); proves && r.leg.Err() == nil {
		k.proof = r
	} else {
		r.end()
	}
	k.quiet.since = 0
}

// end resets the leg's server, if it has not ended yet.
func (r *replica) end() {
	if r.leg.Err() == nil {
		r.leg.Abort()
	} else {
		r.leg.Drop()
	}
}

// letGo ends the leg of a lost source when nobody needs it any more. Until the standby knows how far the
// client is (see safe), or holds the record of another server's leg, which comes behind the digest of all that was
// released, it would continue that leg: a dead process's kernel still has what was not acknowledged to it, and sends
// it again. Once it was reset nobody could show what the client has (see vouched). The failover does not
// wait for this.
func (k *Kept) letGo() {
	if k.proof == nil {
		return
	}
	replaced := k.source != nil && k.source.recorded.Load() && !k.legOut.Load()
	if replaced || k.lingering || k.safe() || k.proof.leg.Err() != nil {
		k.proof.end()
		k.proof = nil
	}
}

// dismiss lets go of legs that have ended or whose server is down, and judges the
// source's end.
func (k *Kept) dismiss() {
	now := k.host.Now()
	for _, r := range k.replicas() {
		err := r.leg.Err()
		switch {
		case err == nil && r == k.source && k.streams[replication.Response].FinPassed:
			if down, checks := k.pool.Failing(r.server); !down || checks <= r.checks {
				r.failing = 0
			} else if !k.owes(r) {
				k.retire(r)
			}
		case err == nil && k.unhealthy(r):
			k.lose(r, "its health check fails")
		case err == nil && !r.leg.Established() && r != k.source && r.dial.over(now):
			k.pool.Refused(r.server)
			k.lose(r, "does not answer")
		case err == nil:
		case r == k.source:
			k.sourceFailed(r, err)
		default:
			if r.at == 0 || err == stack.ErrRefused {
				k.pool.Refused(r.server)
			}
			if err == stack.ErrReset {
				k.refused(r, "was reset")
			}
			k.lose(r, err.Error())
		}
		if k.over {
			return
		}
	}
}

// unhealthy reports whether r is to be given up because its server's health check
// fails. A source is kept if there is no other: nothing is won by taking it away, and
// the check itself may be wrong; and until a check fails that was made since we have its leg: what a standby
// that was cut off found out of it is no news. Another one that was begun with in spite of the check,
// because there was none better, has until a later check fails, or until there is one.
func (k *Kept) unhealthy(r *replica) bool {
	down, checks := k.pool.Failing(r.server)
	switch {
	case !down:
	case r == k.source:
		down = checks > r.checks && (k.spare() || k.stands(r))
	default:
		down = checks > r.checks || k.spare()
	}
	if !down {
		r.failing = 0
		return false
	}
	return !k.owes(r)
}

// owes reports whether r, whose health check fails, is kept for what only its server can show: what the client
// has and the standby, which would continue its leg, does not know (see safe), or what the former
// active had released (see vouched). A check fails on a busy machine, too. One that hangs says nothing more: the
// standby has the rest in a moment, or it is given up. Whatever comes, r has the service's patience.
func (k *Kept) owes(r *replica) bool {
	now := k.host.Now()
	if r.failing == 0 {
		r.failing = now
	}
	to := r.failing + k.svc.Patience
	if now >= to {
		return false
	}
	owes := !k.safe() && (r == k.source || r.recorded.Load() || k.legOut.Load())
	if !owes && r == k.source && !k.streams[replication.Response].FinPassed {
		ok, _ := k.vouched()
		owes = !ok
	}
	if owes {
		k.wakeAt(to)
	}
	return owes
}

// spare reports whether there is a server for another leg that is not known to be down.
func (k *Kept) spare() bool {
	if k.plain {
		return false
	}
	_, ok := k.another(false)
	return ok
}

// used are the servers that cannot be given another leg, by bit: those that have one,
// and those that have diverged.
func (k *Kept) used() uint64 {
	used := k.bad
	for _, r := range k.replicas() {
		used |= 1 << uint(r.server)
	}
	return used
}

// stands reports whether another replica could take r's place.
func (k *Kept) stands(r *replica) bool {
	for _, x := range k.replicas() {
		if x == r || x.doubt || !x.leg.Established() {
			continue
		}
		if down, _ := k.pool.Failing(x.server); !down {
			return true
		}
	}
	return false
}
