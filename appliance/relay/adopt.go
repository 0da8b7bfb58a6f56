package relay

import "lockstep/replication"

// A standby has joined, and the journal wants the connections that run already. Only
// the worker may read a connection's receive queues, so each is adopted in its own
// turn, whatever it is doing: in its handshake (nothing has arrived yet), half-closed,
// with its endpoints still to be built after a takeover (what is held is in the
// stash). The order is: close the gates, so that no more is acknowledged; let
// deliveries go to the journal; take the picture; hand it over.

// Adopt is called by the journal: it wants this connection.
func (c *Conn) Adopt() {
	c.wanted.Store(true)
	c.r.sched.add(c, false)
}

// adopt answers. A connection that the journal does not know, or knows to have ended,
// was not asked for; one that is protected was asked for by a session before.
func (c *Conn) adopt() {
	if !c.recorded() || c.protected.Load() {
		return
	}
	if c.kept != nil {
		c.adoptKept()
		return
	}
	c.drain.secured = false
	var pos [2]replication.StreamPos
	reqAcked, reqFin := c.client.CloseGate()
	respAcked, respFin := c.server.CloseGate()
	c.protected.Store(true)
	bufs, ok := c.position(replication.Request, &pos[replication.Request], nil, reqAcked, reqFin)
	if ok {
		bufs, ok = c.position(replication.Response, &pos[replication.Response], bufs, respAcked, respFin)
	}
	if !ok {
		// The endpoint has failed under our hands and dropped what it had. That ends
		// the connection with the next event.
		c.Unprotect()
		c.wanted.Store(true)
		return
	}
	r := replication.Record{
		ID: c.ID, Service: c.svc.Name,
		Client: legRecord(c.client.Params()), Server: legRecord(c.server.Params()),
	}
	err := c.r.journal.Adopt(c, r, pos, nil)
	clear(bufs)
	if err != nil {
		c.Unprotect() // counted by the journal
		return
	}
	for i := range c.streams {
		s, p := &c.streams[i], &pos[i]
		s.shipped, s.finShipped = p.Received, p.Fin
		if p.Fin && replication.Stream(i) == replication.Request {
			s.shipped-- // of requests it counts data only
		}
	}
	c.tellDelivered() // what was delivered meanwhile
}

// position says where a stream stands whose gate was closed at acked; fin: that
// includes the FIN. It appends to bufs the bytes that p refers to. ok is false if not
// all that was acknowledged is there.
func (c *Conn) position(id replication.Stream, p *replication.StreamPos, bufs [][]byte, acked uint64, fin bool) (_ [][]byte, ok bool) {
	s := &c.streams[id]
	s.permit.Store(0)
	s.needTo.Store(0)
	p.Acked = acked
	if fin {
		acked--
	}
	end := max(s.next, acked) // of the data that is here
	p.Received, p.Fin = end, s.finPassed || fin
	if p.Fin {
		p.Received++
	}
	delivered := s.delivered.Load()
	if s.finPassed && delivered > s.end {
		p.Delivered = s.end + 1
		return bufs, p.Delivered == p.Received
	}
	p.Delivered = min(delivered, s.next)
	to := end
	if id == replication.Response {
		to = max(acked, p.Delivered) // from there on the server still has it
	}
	first := len(bufs)
	from := p.Delivered
	if from < s.base {
		if to < s.base || from+uint64(s.stashLen) < s.base {
			return bufs, false
		}
		left, _ := after(s.stash, int(from-(s.base-uint64(s.stashLen))))
		bufs = append(bufs, left...)
		from = s.base
	}
	if n := 0; to > from {
		if bufs, n, _ = s.src.Peek(bufs, int(from-s.base), int(to-from)); uint64(n) != to-from {
			return bufs, false
		}
	}
	p.Bytes = bufs[first:]
	return bufs, true
}

// tellDelivered tells the journal how far both streams are delivered, again.
func (c *Conn) tellDelivered() {
	if !c.protected.Load() {
		return
	}
	for i := range c.streams {
		if d := c.streams[i].delivered.Load(); d > 0 {
			c.deliver(replication.Stream(i), d)
		}
	}
}

// adoptKept is adopt for a connection that outlives its server: the standby gets the
// log, and what is known of the response, too.
func (c *Conn) adoptKept() {
	k := c.kept
	if k.source != nil && !k.source.recorded.Load() {
		c.wanted.Store(true) // until record has got to it, or has given up
		return
	}
	req, resp := &c.streams[replication.Request], &c.streams[replication.Response]
	reqAcked, reqFin := c.client.CloseGate()
	var respAcked uint64
	var respFin bool
	for _, r := range k.replicas() {
		if acked, fin := r.leg.CloseGate(); r.recorded.Load() {
			respAcked, respFin = acked+r.start[replication.Response], fin
		}
	}
	c.protected.Store(true)
	req.permit.Store(0)
	resp.permit.Store(0)
	resp.needTo.Store(0)
	pos, l, ok := c.positionKept(reqAcked, reqFin, respAcked, respFin)
	if !ok {
		c.Unprotect()
		c.wanted.Store(true)
		return
	}
	r := replication.Record{
		ID: c.ID, Service: c.svc.Name, Logged: !k.plain, Start: k.start,
		Client: legRecord(c.client.Params()), Server: k.server,
	}
	if err := c.r.journal.Adopt(c, r, pos, l); err != nil {
		c.Unprotect() // counted by the journal
		return
	}
	k.hold(pos[replication.Response].Delivered, pos[replication.Response].Bytes, resp.next)
	req.shipped, req.finShipped = req.next, req.finPassed
	resp.shipped = pos[replication.Response].Received
	k.told.Store(k.seen.end)
	if resp.finPassed {
		k.told.Store(resp.end + 1)
	}
	c.tellDelivered()
}

// positionKept says where the streams of a kept connection stand.
func (c *Conn) positionKept(reqAcked uint64, reqFin bool, respAcked uint64, respFin bool) (pos [2]replication.StreamPos, l *replication.Log, ok bool) {
	k := c.kept
	req, resp := &c.streams[replication.Request], &c.streams[replication.Response]
	data := reqAcked
	if reqFin {
		data--
	}
	for req.next < data || reqFin && !req.finPassed {
		before := req.next
		if c.takeSome(int(max(data-req.next, 1))); req.next == before && !req.finPassed {
			return pos, nil, false
		}
	}
	p := &pos[replication.Request]
	p.Acked, p.Received, p.Fin = reqAcked, req.next, req.finPassed
	if p.Fin {
		p.Received++
	}
	p.Delivered = min(req.delivered.Load(), p.Received) // the server may have more, see stack.Events
	from := min(p.Delivered, req.next)
	if from < k.log.base {
		return pos, nil, false
	}
	p.Bytes, _ = k.log.from(nil, from, int(k.log.end-from))

	p = &pos[replication.Response]
	p.Acked, p.Delivered = respAcked, min(resp.delivered.Load(), resp.next)
	end := max(resp.next, k.seen.end, respAcked)
	if respFin {
		end = max(resp.next, k.seen.end, respAcked-1)
	}
	p.Received, p.Fin = end, resp.finPassed || respFin
	if p.Fin {
		p.Received++
	}
	if resp.finPassed && resp.delivered.Load() > resp.end {
		p.Delivered = resp.end + 1
	} else if !c.responseBytes(p, respFin) {
		return pos, nil, false
	}
	if k.plain {
		return pos, nil, true
	}
	l = &replication.Log{Checkpoint: k.ckpt, Segments: k.seen.segments()}
	l.Bytes, _ = k.log.from(nil, k.ckpt[replication.Request], int(from-k.ckpt[replication.Request]))
	if k.ad != nil {
		l.State = k.ad.State(nil)
	}
	return pos, l, true
}

// responseBytes adds to p the bytes that the recorded leg's server may have
// forgotten: what is acknowledged to it and not delivered.
func (c *Conn) responseBytes(p *replication.StreamPos, fin bool) bool {
	k := c.kept
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
	if b := k.holds(from); len(b) > 0 {
		b = b[:min(uint64(len(b)), to-from)]
		p.Bytes = append(p.Bytes, b)
		from += uint64(len(b))
	}
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
