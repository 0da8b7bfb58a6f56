package kept

import (
	"time"

	"lockstep/replication"
	"lockstep/stack"
)

// Of a connection that is parked (see stack.Leg.Park) no leg has an endpoint, and Step does nothing as
// long as nobody has a reason to.

// Park parks all legs if nothing is going on: every server has said and taken the same as the client.
func (k *Kept) Park(rest time.Duration) bool {
	if !k.rests(rest) {
		return false
	}
	req, resp := &k.streams[replication.Request], &k.streams[replication.Response]
	legs := k.legs()
	ok := k.client.Park(req.Next, resp.Next, rest)
	for _, r := range k.replicas() {
		ok = ok && r.park(rest)
	}
	if !ok {
		k.build(legs)
		k.host.Wake()
		return false
	}
	k.parked = true
	return true
}

// rests reports whether there is nothing to do, and nothing to wait for but the next request.
func (k *Kept) rests(rest time.Duration) bool {
	req, resp := &k.streams[replication.Request], &k.streams[replication.Response]
	switch {
	case k.leaving() || k.lingering || k.over || k.drain.On.Load() || k.wakeDue > k.host.Now():
		return false
	case !k.plain && k.staying() < k.wanted(): // another server is to be found first
		return false
	case k.source == nil || !k.source.recorded.Load() || k.legOut.Load() || k.claim.answer != nil || k.proof != nil:
		return false
	case req.FinPassed || req.Base != req.Next || k.log.end != req.Next || req.Delivered.Load() != req.Next:
		return false
	case resp.FinPassed || k.seen.end != resp.Next || resp.Delivered.Load() != resp.Next || len(k.holds(resp.Next)) > 0:
		return false
	case !k.client.Rests(req.Next, resp.Next, rest) || k.disturbed():
		return false
	}
	for _, r := range k.replicas() {
		if r.at != resp.Next || r.base != resp.Next || r.doubt || r.ended || r.written != req.Next || r.acked.Load() != req.Next ||
			!r.leg.Rests(r.base-r.start[replication.Response], r.written-r.start[replication.Request], rest) {
			return false
		}
	}
	return true
}

func (r *replica) park(rest time.Duration) bool {
	return r.leg.Park(r.base-r.start[replication.Response], r.written-r.start[replication.Request], rest)
}

// Parked reports whether the connection is.
func (k *Kept) Parked() bool { return k.parked }

// legs are all that there are.
func (k *Kept) legs() []*stack.Leg {
	legs := []*stack.Leg{k.client}
	for _, r := range k.replicas() {
		legs = append(legs, r.leg)
	}
	return legs
}

// unpark has all legs wait for endpoints if something came for one, or has happened beside them.
func (k *Kept) unpark() {
	if legs := k.legs(); k.disturbed() || !stack.Parked(legs...) {
		k.parked = false
		k.build(legs)
	}
}

// build has all legs wait for endpoints.
func (k *Kept) build(legs []*stack.Leg) {
	k.building, k.unparked = true, k.host.Now()
	stack.Unpark(legs...)
}

// built reports whether the legs have their endpoints again, or have ended. A leg without one is not to be taken for
// that of a server that does not answer.
func (k *Kept) built() bool {
	for _, l := range k.legs() {
		if !l.Established() && l.Err() == nil {
			return false
		}
	}
	k.building = false
	return true
}

// disturbed reports whether Step has anything to do but what segments cause.
func (k *Kept) disturbed() bool {
	if k.leaving() || k.client.Err() != nil || k.unlogged.Load() || k.streams[replication.Response].NeedTo.Load() != 0 {
		return true
	}
	for _, r := range k.replicas() {
		if down, _ := k.pool.Failing(r.server); down || r.leg.Err() != nil {
			return true
		}
	}
	return false
}
