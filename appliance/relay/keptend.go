package relay

import (
	"lockstep/appliance/adapter"
	"lockstep/replication"
)

// What is still done for a kept connection of which one end has gone: see drain.go. A
// server that dies is another matter, that is what the connection is kept for.

// stepClientGone carries what a client has sent before its RST to its servers.
func (c *Conn) stepClientGone() {
	k, s := c.kept, &c.streams[replication.Request]
	now := c.r.now()
	c.drain.begin(now)
	for c.takeRequest() {
	}
	left, alive, sum := !c.nothingLeft(replication.Request), false, uint64(0)
	for _, r := range k.replicas() {
		if r.leg.Err() != nil {
			continue
		}
		r.feed(k)
		alive = true
		acked := r.acked.Load()
		sum += acked
		left = left || acked < k.log.end || s.finPassed && acked <= s.end
	}
	c.trimKept()
	if !alive || !left || c.drain.late(now, sum, c.svc.Drain) {
		c.abort()
	}
}

// sourceDone lets the client have what a source that lives has sent before its RST, and
// then passes that on.
func (c *Conn) sourceDone(r *replica) {
	k, s := c.kept, &c.streams[replication.Response]
	if !c.mayRelease() {
		return
	}
	c.drain.begin(c.r.now())
	k.claim.release = true
	for c.releaseResponse() {
	}
	if k.source != r || c.phase == phaseDone {
		return // its FIN was there, too, and is judged as any
	}
	if !s.finPassed && s.next == k.seen.end && !k.claim.meant {
		if k.ad != nil && k.ad.End() == adapter.Premature && c.suspicious() {
			c.lose(r, "reset in the middle of a response")
			c.wakeAt(0)
			return
		}
		k.claim.meant = true
		c.releaseRest(r)
	}
	end := s.next
	if s.finPassed {
		end = s.end + 1
	}
	has := s.delivered.Load()
	if has >= end && s.next == k.seen.end || c.drain.late(c.r.now(), has, c.svc.Drain) {
		c.abort()
	}
}

// retire gives up the server of a connection that has had its whole response: there is
// nothing that another one could go on with.
func (c *Conn) retire(r *replica) {
	k := c.kept
	k.taken = max(k.taken, r.acked.Load())
	k.remove(r)
	r.leg.Abort()
}

// stepServed waits for the end of a client that has its whole response, and whose server
// is gone: its FIN is acknowledged, as by a kernel whose process has ended; what else it
// sends has no receiver any more.
func (c *Conn) stepServed() {
	k := c.kept
	req, resp := &c.streams[replication.Request], &c.streams[replication.Response]
	for !req.finPassed && c.takeSome(logAhead) > 0 {
	}
	c.shipKept()
	c.trimKept()
	c.measure()
	switch {
	case resp.delivered.Load() <= resp.end:
	case k.log.end > max(k.taken, req.delivered.Load()):
		c.abort()
	case req.finPassed && (!c.protected.Load() || req.permit.Load() > req.end):
		// For the journal the request has not come to its end.
		c.r.journal.Close(c.ID, replication.Aborted)
		c.client.Finish()
		c.startLingering()
	}
}
