package kept

import (
	"errors"
	"sync/atomic"

	"lockstep/appliance/adapter"
	"lockstep/appliance/carry"
	"lockstep/replication"
	"lockstep/stack"
)

var errLogGone = errors.New("kept: the log does not reach back to what is to be delivered")

// Restore makes a connection of what the standby has: the recorded leg goes
// on as the source, the others are told the request again. halfWay: the server has not
// been told yet that the client is there.
func (k *Kept) Restore(rec *replication.Continue, server stack.Params, halfWay bool) error {
	k.restored, k.restoredAt = true, k.host.Now()
	k.last = k.pool.Index(server.Remote)
	req, resp := &rec.Streams[replication.Request], &rec.Streams[replication.Response]
	k.server, k.start = carry.LegRecord(server), rec.Record.Start // by this appliance's clock, for the next standby
	sent := min(req.Delivered, carry.DataEnd(req))
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
		k.turns = l.Turns
		// Without a state: raw from here on, no checkpoint any more, and every end is judged.
		k.ad = k.adapterAt(l.State, k.log.end)
	} else {
		k.plain, k.ad = true, adapter.Raw{}
		k.log.base, k.log.end = sent, sent
		k.log.adopt(req.Bytes)
		k.seen.end = min(resp.Delivered, carry.DataEnd(resp))
	}
	if k.log.end != carry.DataEnd(req) || k.log.base > sent {
		return errLogGone
	}
	k.seen.start = k.seen.end
	k.seen.open.startAt(k.seen.end)
	k.told.Store(k.seen.end)
	r := &replica{k: k, server: k.last, start: rec.Record.Start, born: k.restoredAt}
	r.dial.since = r.born
	r.ad, r.written = adapter.Raw{}, sent
	_, r.checks = k.pool.Failing(r.server)
	r.at, r.base = k.seen.end, carry.DataEnd(resp)
	r.acked.Store(sent)
	r.recorded.Store(true)
	k.source = r
	sr := carry.Resume(resp, req)
	sr.HalfWay = halfWay
	sr.Received -= r.start[replication.Response]
	sr.Sent -= r.start[replication.Request]
	sr.Held -= r.start[replication.Request]
	sr.PeerKnows, sr.Quiet, sr.Parked = true, rec.Idle, k.client.Parked()
	var err error
	r.quiet = sr.Quiet && !k.plain
	if r.leg, err = k.host.Restore(server, sr, r); err != nil {
		return err
	}
	k.restoreStreams(rec)
	k.all.Store(&[]*replica{r})
	k.client.Lone()
	r.leg.Lone()
	k.lead(r)
	k.parked = true
	k.unpark()  // unless both are
	k.measure() // Step does not, of one that stays parked
	return nil
}

// askSource has a source that nobody disturbs at a takeover, since nothing seems to be going on, say that it knows
// of its connection. The former active may have given it up, and have been about to try the request on another
// server, of which the standby is not told: then nothing will come of it, and the client waits for an end
// that the standby has not heard of. Its answer is a reset while that is taken for no wish of its own (see inherited).
func (k *Kept) askSource() {
	src, now := k.source, k.host.Now()
	if src == nil || !src.quiet {
		return
	}
	if _, said := src.leg.PeerHas(); said || src.leg.Err() != nil || now-k.restoredAt >= inherited {
		src.quiet = false
		return
	}
	if now >= k.sourceAt {
		k.sourceAt = now + redialMax
		src.leg.AskPeer()
	}
	k.wakeAt(k.sourceAt)
}

// restoreStreams sets the two streams of a kept connection. What the standby holds of
// the response is not in the receive queue of any leg: it is released from memory.
func (k *Kept) restoreStreams(rec *replication.Continue) {
	req, resp := &k.streams[replication.Request], &k.streams[replication.Response]
	q, p := &rec.Streams[replication.Request], &rec.Streams[replication.Response]
	req.Base, req.Next, req.Shipped = carry.DataEnd(q), carry.DataEnd(q), carry.DataEnd(q)
	req.Delivered.Store(min(q.Delivered, carry.DataEnd(q)))
	if q.Fin {
		req.FinPassed, req.End = true, carry.DataEnd(q)
		req.Delivered.Store(q.Delivered)
		k.ad.RequestEnd()
	}
	resp.Next = min(p.Delivered, carry.DataEnd(p))
	resp.Delivered.Store(resp.Next)
	k.heldAt = resp.Next
	for _, b := range p.Bytes {
		k.held = append(k.held, b...)
	}
	resp.Shipped = carry.DataEnd(p)
	if p.Fin {
		// The standby is told of a server's FIN only when it is believed.
		k.claim.told, k.claim.answer = true, new(atomic.Uint32)
		k.claim.answer.Store(uint32(Alive))
	}
}

// adapterAt makes an adapter that goes on from a state, with the request up to seen
// from the log.
func (k *Kept) adapterAt(state []byte, seen uint64) adapter.Adapter {
	ad := k.svc.newAdapter()
	// Without a state nothing has been released yet: it is as new.
	if len(state) > 0 || k.seen.end > 0 {
		if err := ad.Restore(state, k.log.base); err != nil {
			return adapter.Raw{} // every byte counts
		}
	}
	bufs, n := k.log.from(nil, k.log.base, int(seen-k.log.base))
	feed(ad, bufs, n)
	return ad
}
