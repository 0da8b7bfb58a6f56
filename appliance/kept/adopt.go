package kept

import (
	"lockstep/appliance/carry"
	"lockstep/replication"
)

// What a standby that joins is told: the log, and what is known of the response, beside
// what it is told of every connection.

// adoptable is false until the source's leg is recorded, or record has given up; and from when
// the source's FIN is acknowledged until it is decided whether it is meant, see undecided.
func (k *Kept) adoptable() bool {
	return k.source == nil || k.source.recorded.Load() && !k.claimed()
}

// claimed reports whether the source's FIN is acknowledged and not believed yet. A standby could
// not be told of such a connection: without the FIN it would wait for it in vain, with it it would
// take it for the response's end, and the active could not go on with another server.
func (k *Kept) claimed() bool {
	return k.source != nil && k.source.finAcked && !k.streams[replication.Response].FinPassed && !k.claim.told
}

// undecided waits, while a standby that joins does, for what is made of the FIN: it may be behind
// what a slow client has to take first. Not for long: better without this connection than
// without any.
func (k *Kept) undecided() {
	cl := &k.claim
	if !k.claimed() || !k.host.Wanted() {
		cl.since = 0
		return
	}
	now := k.host.Now()
	if cl.since == 0 {
		cl.since = now
	}
	if now-cl.since >= legPatience {
		cl.since = 0
		k.host.Unwanted()
		k.journal.Forgo(k.id)
		return
	}
	k.wakeAt(cl.since + legPatience)
}

// CloseGates closes them, so that no more is acknowledged. As long as the connection is not
// adoptable it does nothing.
func (k *Kept) CloseGates() (g carry.Gates, ok bool) {
	if !k.adoptable() {
		return g, false
	}
	const req, resp = replication.Request, replication.Response
	g.Acked[req], g.Fin[req] = k.client.CloseGate()
	for _, r := range k.replicas() {
		if acked, fin := r.leg.CloseGate(); r.recorded.Load() {
			g.Acked[resp], g.Fin[resp] = acked+r.start[resp], fin
			r.finAcked = fin
		}
	}
	return g, true
}

// Picture says where the connection stands whose gates were closed at g. ok is false if
// not all that was acknowledged is there, or it has ceased to be adoptable.
func (k *Kept) Picture(g carry.Gates) (p carry.Picture, ok bool) {
	req, resp := &k.streams[replication.Request], &k.streams[replication.Response]
	req.Permit.Store(0)
	resp.Permit.Store(0)
	resp.NeedTo.Store(0)
	if k.claimed() {
		return p, false
	}
	p = carry.Picture{Server: k.server, Logged: !k.plain, Start: k.start}
	p.Pos, p.Log, ok = k.position(g.Acked[0], g.Fin[0], g.Acked[1], g.Fin[1])
	return p, ok
}

// Adopted says that the standby is told.
func (k *Kept) Adopted(p *carry.Picture) {
	req, resp := &k.streams[replication.Request], &k.streams[replication.Response]
	pos := &p.Pos[replication.Response]
	k.hold(pos.Delivered, pos.Bytes, resp.Next)
	req.Shipped, req.FinShipped = req.Next, req.FinPassed
	resp.Shipped = pos.Received
	k.told.Store(k.seen.end)
	if resp.FinPassed {
		k.told.Store(resp.End + 1)
	}
}

// position says where the streams of a kept connection stand.
func (k *Kept) position(reqAcked uint64, reqFin bool, respAcked uint64, respFin bool) (pos [2]replication.StreamPos, l *replication.Log, ok bool) {
	req, resp := &k.streams[replication.Request], &k.streams[replication.Response]
	data := reqAcked
	if reqFin {
		data--
	}
	for req.Next < data || reqFin && !req.FinPassed {
		before := req.Next
		if k.takeSome(int(max(data-req.Next, 1))); req.Next == before && !req.FinPassed {
			return pos, nil, false
		}
	}
	p := &pos[replication.Request]
	p.Acked, p.Received, p.Fin = reqAcked, req.Next, req.FinPassed
	if p.Fin {
		p.Received++
	}
	p.Delivered = min(req.Delivered.Load(), p.Received) // the server may have more, see stack.Events
	from := min(p.Delivered, req.Next)
	if from < k.log.base {
		return pos, nil, false
	}
	p.Bytes, _ = k.log.from(nil, from, int(k.log.end-from))

	p = &pos[replication.Response]
	p.Acked, p.Delivered = respAcked, min(resp.Delivered.Load(), resp.Next)
	end := max(resp.Next, k.seen.end, respAcked)
	if respFin {
		end = max(resp.Next, k.seen.end, respAcked-1)
	}
	p.Received, p.Fin = end, resp.FinPassed || respFin
	if p.Fin {
		p.Received++
	}
	if resp.FinPassed && resp.Delivered.Load() > resp.End {
		p.Delivered = resp.End + 1
	} else if !k.responseBytes(p, respFin) {
		return pos, nil, false
	}
	if k.plain {
		return pos, nil, true
	}
	l = &replication.Log{Checkpoint: k.ckpt, Segments: k.seen.segments()}
	l.Bytes, _ = k.log.from(nil, k.ckpt[replication.Request], int(from-k.ckpt[replication.Request]))
	l.State = k.ad.State(nil)
	return pos, l, true
}

// responseBytes adds to p the bytes that the recorded leg's server may have
// forgotten: what is acknowledged to it and not delivered.
func (k *Kept) responseBytes(p *replication.StreamPos, fin bool) bool {
	to := p.Acked
	if fin {
		to--
	}
	if to <= p.Delivered {
		p.Acked = min(p.Acked, p.Delivered)
		if fin && to == p.Delivered {
			p.Acked = to + 1
		}
		return true
	}
	from := p.Delivered
	take := func(b []byte) {
		if b = b[:min(uint64(len(b)), to-from)]; len(b) > 0 {
			p.Bytes = append(p.Bytes, b)
			from += uint64(len(b))
		}
	}
	take(k.stashed(from))
	take(k.holds(from))
	r := k.source
	if from < to && (r == nil || from < r.base) {
		return false
	}
	var n int
	if from < to {
		if p.Bytes, n, _ = r.leg.Peek(p.Bytes, int(from-r.base), int(to-from)); uint64(n) != to-from {
			return false
		}
	}
	return true
}
