package relay

import (
	"errors"
	"sync/atomic"
	"time"

	"lockstep/replication"
	"lockstep/stack"
)

// lingerMax bounds how long the replicas may take to end after the connection has.
const lingerMax = 10 * time.Second

// keep makes a connection whose first server has answered a kept one.
func (c *Conn) keep() {
	r := c.first
	c.first = nil
	k := newKept(c)
	r.born = c.r.now()
	_, r.checks = c.svc.Pool.Failing(r.server)
	r.recorded.Store(true)
	k.source = r
	k.server = legRecord(r.leg.Params())
	c.kept = k
	k.all.Store(&[]*replica{r})
}

// finishedKept is finished: the source's server has acknowledged the client's FIN.
func (c *Conn) finishedKept() bool {
	req, resp := &c.streams[replication.Request], &c.streams[replication.Response]
	k := c.kept
	if !req.finPassed || !resp.finPassed || resp.delivered.Load() <= resp.end ||
		k.source == nil || k.source.acked.Load() <= req.end || !k.source.recorded.Load() {
		return false
	}
	return !c.protected.Load() || req.permit.Load() > req.end && resp.permit.Load() > resp.end
}

// finishKept ends the connection for the client and the source. The other replicas
// may have work to do: a server that is cut off in the middle of a request would not
// be the same afterwards.
func (c *Conn) finishKept() {
	k := c.kept
	c.deliver(replication.Response, c.streams[replication.Response].delivered.Load())
	c.deliver(replication.Request, k.source.acked.Load())
	c.r.journal.Close(c.ID, replication.Finished)
	c.client.Finish()
	k.source.leg.Finish()
	k.remove(k.source)
	c.startLingering()
}

// startLingering goes on with the replicas of a connection that the journal has closed.
func (c *Conn) startLingering() {
	c.protected.Store(false)
	for _, r := range c.kept.replicas() {
		r.leg.Open()
	}
	c.phase = phaseLingering
	c.lingerTo = c.r.now() + lingerMax
	c.linger()
}

// linger goes on with the replicas of a connection that has ended.
func (c *Conn) linger() {
	k, req := c.kept, &c.streams[replication.Request]
	late := c.r.now() >= c.lingerTo
	for _, r := range k.replicas() {
		r.feed(k)
		f := r.verify(k)
		switch {
		case f == diverged:
			c.diverged(r, max(r.doubtAt, k.seen.next(r.at)))
			fallthrough
		case f == early, late, r.leg.Err() != nil:
			c.lose(r, "the connection has ended without it")
		case r.ended && r.at == k.seen.end && r.acked.Load() > req.end:
			r.leg.Finish()
			k.remove(r)
		case r.ended && r.at == k.seen.end:
		default:
			k.discard(r)
		}
	}
	if len(k.replicas()) > 0 {
		c.wakeAt(c.lingerTo)
		return
	}
	c.phase = phaseDone
	c.r.ended(c, false)
}

// abortKept ends the servers' legs of a connection that is reset.
func (c *Conn) abortKept() {
	for _, r := range c.kept.replicas() {
		if r.leg.Err() == nil {
			r.leg.Abort()
		} else {
			r.leg.Drop()
		}
	}
}

// dropKept ends them without a word.
func (c *Conn) dropKept() {
	for _, r := range c.kept.replicas() {
		r.leg.Drop()
	}
}

var errLogGone = errors.New("relay: the log does not reach back to what is to be delivered")

// restoreKept makes a kept connection of what the standby has: the recorded leg goes
// on as the source, the others are told the request again.
func (c *Conn) restoreKept(rec *replication.Continue, server stack.Params) error {
	k := newKept(c)
	k.restored = true
	req, resp := &rec.Streams[replication.Request], &rec.Streams[replication.Response]
	k.server, k.start = legRecord(server), rec.Record.Start // by this appliance's clock, for the next standby
	sent := min(req.Delivered, dataEnd(req))
	if l := rec.Log; l != nil {
		k.ckpt = l.Checkpoint
		base, bytes := k.ckpt[replication.Request], l.Bytes
		if base > sent { // the server's acknowledgement of what lies below was lost
			base, bytes = sent, req.Bytes
		}
		k.log.base, k.log.end = base, base
		k.log.adopt(bytes)
		for _, seg := range l.Segments { // what was open is closed here
			if end := k.seen.end; seg.End > max(end, k.ckpt[replication.Response]) {
				k.seen.closed = append(k.seen.closed, seg)
				k.seen.end = seg.End
			}
		}
		k.seen.end = max(k.seen.end, k.ckpt[replication.Response])
		// Without a state: raw from here on, no checkpoint any more, and every end is judged.
		k.ad = k.adapterAt(c.svc, l.State, k.log.end)
	} else {
		k.plain, k.ad = true, nil
		k.log.base, k.log.end = sent, sent
		k.log.adopt(req.Bytes)
		k.seen.end = min(resp.Delivered, dataEnd(resp))
	}
	if k.log.end != dataEnd(req) || k.log.base > sent {
		return errLogGone
	}
	k.seen.start = k.seen.end
	k.seen.open.startAt(k.seen.end)
	k.told.Store(k.seen.end)
	r := &replica{c: c, server: c.serverIdx, start: rec.Record.Start, born: c.born, written: sent}
	_, r.checks = c.svc.Pool.Failing(r.server)
	r.at, r.base = k.seen.end, dataEnd(resp)
	r.acked.Store(sent)
	r.recorded.Store(true)
	k.source = r
	c.kept = k
	sr := resume(resp, req)
	sr.HalfWay = c.unproven
	sr.Received -= r.start[replication.Response]
	sr.Sent -= r.start[replication.Request]
	sr.Held -= r.start[replication.Request]
	sr.PeerKnows, sr.Quiet = true, rec.Idle
	var err error
	if r.leg, err = c.r.engine.Restore(server, sr, r); err != nil {
		return err
	}
	c.restoreStreams(rec)
	c.server = r.leg
	k.all.Store(&[]*replica{r})
	return nil
}

// restoreStreams sets the two streams of a kept connection. What the standby holds of
// the response is not in the receive queue of any leg: it is released from memory.
func (c *Conn) restoreStreams(rec *replication.Continue) {
	k := c.kept
	req, resp := &c.streams[replication.Request], &c.streams[replication.Response]
	q, p := &rec.Streams[replication.Request], &rec.Streams[replication.Response]
	req.base, req.next, req.shipped = dataEnd(q), dataEnd(q), dataEnd(q)
	req.delivered.Store(min(q.Delivered, dataEnd(q)))
	if q.Fin {
		req.finPassed, req.end = true, dataEnd(q)
		req.delivered.Store(q.Delivered)
		if k.ad != nil {
			k.ad.RequestEnd()
		}
	}
	resp.next = min(p.Delivered, dataEnd(p))
	resp.delivered.Store(resp.next)
	k.heldAt = resp.next
	for _, b := range p.Bytes {
		k.held = append(k.held, b...)
	}
	resp.shipped = dataEnd(p)
	if p.Fin {
		// The standby is told of a server's FIN only when it is believed.
		k.claim.answer = new(atomic.Uint32)
		k.claim.answer.Store(claimAlive)
	}
}
