package kept

import (
	"lockstep/appliance/adapter"
	"lockstep/replication"
)

// What is still done for a kept connection of which one end has gone: see carry.Draining. A
// server that dies is another matter, that is what the connection is kept for.

// stepClientGone carries what a client has sent before its RST to its servers.
func (k *Kept) stepClientGone() {
	s := &k.streams[replication.Request]
	now := k.host.Now()
	k.drain.Begin(now)
	for k.takeRequest() {
	}
	left, alive, sum := k.RequestLeft(), false, uint64(0)
	for _, r := range k.replicas() {
		if r.leg.Err() != nil {
			continue
		}
		r.pace.free = true // nobody looks at its answers any more
		r.feed(k)
		alive = true
		acked := r.acked.Load()
		sum += acked
		left = left || acked < k.log.end || s.FinPassed && acked <= s.End
	}
	k.trim()
	if !alive || !left || k.drain.Late(now, sum, k.drainFor) {
		k.host.Abort()
	}
}

// sourceDone lets the client have what a source that lives has sent before its RST, and
// then passes that on.
func (k *Kept) sourceDone(r *replica) {
	s := &k.streams[replication.Response]
	if k.barred(r) {
		return
	}
	k.drain.Begin(k.host.Now())
	k.claim.release = true
	for k.releaseResponse() {
	}
	if k.source != r || k.over {
		return // its FIN was there, too, and is judged as any
	}
	if k.barred(r) {
		return // it has only now shown that it agrees
	}
	if !s.FinPassed && s.Next == k.seen.end && !k.claim.meant {
		if k.ad.End() == adapter.Premature && k.suspicious() {
			k.lose(r, "reset in the middle of a response")
			k.wakeAt(0)
			return
		}
		k.claim.meant = true
		k.releaseRest(r)
	}
	end := s.Next
	if s.FinPassed {
		end = s.End + 1
	}
	has := s.Delivered.Load()
	if has >= end && s.Next == k.seen.end || k.drain.Late(k.host.Now(), has, k.drainFor) {
		k.host.Abort()
	}
}

// RequestLeft reports whether there is more of the request in the client's receive queue.
func (k *Kept) RequestLeft() bool {
	s := &k.streams[replication.Request]
	if s.FinPassed {
		return false
	}
	_, n, eof := k.client.Peek(nil, int(s.Next-s.Base), 1)
	return n > 0 || eof
}

// retire gives up the server of a connection that has had its whole response: there is
// nothing that another one could go on with.
func (k *Kept) retire(r *replica) {
	k.taken = max(k.taken, r.acked.Load())
	k.remove(r)
	r.leg.Abort()
}

// stepServed waits for the end of a client that has its whole response, and whose server
// is gone: its FIN is acknowledged, as by a kernel whose process has ended; what else it
// sends has no receiver any more.
func (k *Kept) stepServed() {
	req, resp := &k.streams[replication.Request], &k.streams[replication.Response]
	for !req.FinPassed && k.takeSome(logAhead) > 0 {
	}
	k.ship()
	k.trim()
	k.measure()
	switch {
	case resp.Delivered.Load() <= resp.End:
	case k.log.end > max(k.taken, req.Delivered.Load()):
		k.host.Abort()
	case req.FinPassed && (!k.flags.Protected.Load() || req.Permit.Load() > req.End):
		// For the journal the request has not come to its end.
		k.journal.Close(k.id, replication.Aborted)
		k.client.Finish()
		k.startLingering()
	}
}
