package kept

import (
	"slices"

	"lockstep/replication"
)

// elect verifies the replicas, and chooses the one whose bytes the client gets.
func (k *Kept) elect() {
	for _, r := range k.replicas() {
		if !slices.Contains(k.replicas(), r) {
			continue
		}
		if r == k.source && (r.at >= k.seen.end || r.sum == nil) {
			continue // else it has to agree with what a former source had sent
		}
		agreed, doubted := r.agreed, r.doubtAt
		found := r.verify(k)
		if r.doubt {
			found = diverged // until the third one has decided
		}
		if r.doubt && r.doubtAt != doubted || r.agreed != agreed && k.doubts() {
			k.wakeAt(0) // one before it may have to be followed to there, or has waited for what it says
		}
		switch found {
		case diverged:
			k.disagree(r)
		case early:
			k.refused(r, "ended")
			k.lose(r, "ended before the point that another one has reached")
		}
		if k.over {
			return
		}
	}
	s := &k.streams[replication.Response]
	if s.FinPassed {
		return
	}
	if k.source == nil {
		for _, r := range k.replicas() {
			if !r.doubt && r.leg.Established() && r.at == k.seen.end {
				k.promote(r)
				break
			}
		}
		return
	}
	ahead, speaks := k.ahead()
	if ahead != nil {
		if ok, _ := k.vouched(); !ok {
			ahead = nil // the source may still send those bytes again
		}
	}
	switch {
	case ahead == nil:
		k.quiet.since = 0
	case k.svc.ReleaseFirst && speaks:
		k.switchTo(ahead)
	default:
		over, next := k.quiet.over(k.host.Now(), k.source.acked.Load())
		if !over {
			k.wakeAt(next)
			break
		}
		// It may only be slow: its leg stays, and its health check decides.
		k.svc.note(Loss{Server: k.source.server, Why: "silent while another one goes on", Conn: k.id, Source: true})
		k.switchTo(ahead)
	}
}

// doubts reports whether a replica waits for what others say.
func (k *Kept) doubts() bool {
	return slices.ContainsFunc(k.replicas(), func(r *replica) bool { return r.doubt })
}

// switchTo lets the client have the bytes of another replica, which is in step. The
// former source is compared from now on.
func (k *Kept) switchTo(r *replica) {
	old := k.source
	if old.sum == nil {
		old.sum = newDigest(0)
	}
	old.agreed = k.seen.end
	old.sum.copyFrom(k.seen.open)
	if !raw(k.ad) {
		old.ad = k.adapterAt(k.ad.State(nil), old.written)
	}
	k.source, k.quiet.since, k.claim = r, 0, claim{}
	k.lead(r)
	k.last = r.server
	k.host.Serves(r.server)
	k.svc.counts.switched.Add(1)
}

// ahead is a replica that has bytes for the client while the source has none (speaks),
// or that takes the request while the source does not.
func (k *Kept) ahead() (r *replica, speaks bool) {
	s := &k.streams[replication.Response]
	if len(k.replicas()) < 2 || s.Next < k.seen.end || len(k.holds(s.Next)) > 0 {
		return nil, false
	}
	silent := !has(k.source, k.seen.end)
	takes := k.source.acked.Load() >= k.log.end
	for _, r = range k.replicas() {
		if r == k.source || r.doubt || r.at != k.seen.end || !r.leg.Established() {
			continue
		}
		if speaks = silent && (has(r, k.seen.end) || r.ended); speaks || !takes && r.acked.Load() >= k.log.end {
			return r, speaks
		}
	}
	return nil, false
}

// has reports whether r's server has sent bytes from off on.
func has(r *replica, off uint64) bool {
	if !r.leg.Established() || off < r.base {
		return false
	}
	_, n, _ := r.leg.Peek(nil, int(off-r.base), 1)
	return n > 0
}

// vouched reports whether another server's bytes may follow what the client has. After
// a takeover it may have more than the digests cover: what the former active released
// in its last moment. Nobody can say whether another server's are the same (invariant
// 6). lost: so it is, and not only that the client has not said yet how far it is.
func (k *Kept) vouched() (ok, lost bool) {
	if !k.restored {
		return true, false
	}
	has, said := k.client.PeerHas()
	if !said {
		k.askClient()
	}
	return said && has <= k.seen.end, said && has > k.seen.end
}

// askClient asks the client how far it is, and again after a while.
func (k *Kept) askClient() {
	now := k.host.Now()
	if now >= k.askAt {
		k.askAt = now + redialMax
		k.client.AskPeer()
	}
	k.wakeAt(k.askAt)
}

// promote makes r the source: what it has sent is verified up to where the client is
// to go on.
func (k *Kept) promote(r *replica) {
	if ok, lost := k.vouched(); !ok {
		if lost {
			k.svc.counts.unverified.Add(1)
			k.host.Abort()
		}
		return
	}
	if k.splits(r) {
		k.svc.counts.unverified.Add(1)
		k.host.Abort()
		return
	}
	if k.lostAt != 0 {
		k.svc.counts.failovers.Add(1)
		k.svc.note(Loss{Server: r.server, Why: k.lostWhy, Conn: k.id, Took: k.host.Now() - k.lostAt, Source: true, Replaced: true})
	}
	k.source, k.lostAt, k.quiet.since = r, 0, 0
	k.lead(r)
	k.claim = claim{}
	k.last = r.server
	k.host.Serves(r.server)
}

// differs gives up a replica whose output is not what it has to be.
func (k *Kept) differs(r *replica) {
	k.diverged(r, max(r.doubtAt, k.seen.next(r.at)))
	k.bad |= 1 << uint(r.server)
	k.lose(r, "its output differs from what the client has got")
}

// disagree deals with a replica whose output differs from what was released.
func (k *Kept) disagree(r *replica) {
	others := 0
	for _, x := range k.replicas() {
		switch {
		case x == r || x == k.source:
		case r.doubt && x.doubt && x.doubtAt == r.doubtAt && x.doubtSum == r.doubtSum:
			// Two against one: what the client has got is wrong, and can not be taken back.
			k.diverged(r, r.doubtAt)
			k.svc.note(Loss{Server: k.last, Why: "two others agree that its output is wrong", Conn: k.id, Source: true})
			k.host.Abort()
			return
		case !x.doubt && x.agreed < r.doubtAt, x.differs(r):
			others++ // it will say
		}
	}
	if others > 0 && r.doubt {
		return
	}
	k.differs(r)
	for _, x := range k.replicas() {
		if x.doubt {
			k.disagree(x) // it waited for this one
			return
		}
	}
}
