package relay

import "lockstep/replication"

// releaseResponse carries response bytes from the source to the client. What has
// been written to the client's leg is released: from then on every server's output
// has to agree with it. again: there is more.
func (c *Conn) releaseResponse() (again bool) {
	k, s := c.kept, &c.streams[replication.Response]
	if s.finPassed || !c.client.Established() || !c.client.Confirmed() {
		return false
	}
	src := k.source
	if src != nil && src.leg.Err() != nil && !k.claim.release {
		src = nil
	}
	bufs := c.r.buffers()
	defer func() { c.r.release(bufs) }()
	bufs, n, eof := c.peekResponse(src, bufs)
	if s.next < k.seen.end {
		// Released by the former active, or before the client's leg had room for it.
		n = int(min(uint64(n), k.seen.end-s.next))
		w, err := c.client.Write(bufs, n)
		s.next += uint64(w)
		return err == nil && w == n && n > 0
	}
	if !c.mayRelease() {
		return false
	}
	if n > 0 {
		c.tellBefore(n)
		took, full := c.releaseFresh(src, bufs, n)
		c.tellReleased(false)
		if full {
			return false
		}
		if took < n && !eof {
			return false // the rest of a head is awaited
		}
		if took == n && !eof {
			return true
		}
	}
	if eof {
		c.ending(src)
	}
	return false
}

// peekResponse returns the bytes that the client is to get next: those that are held,
// or else the source's.
func (c *Conn) peekResponse(src *replica, bufs [][]byte) (_ [][]byte, n int, eof bool) {
	k, s := c.kept, &c.streams[replication.Response]
	if b := k.holds(s.next); len(b) > 0 {
		b = b[:min(len(b), moveMax)]
		return append(bufs, b), len(b), false
	}
	if src == nil || !src.leg.Established() || s.next < src.base {
		return bufs, 0, false
	}
	return src.leg.Peek(bufs, int(s.next-src.base), moveMax)
}

// tellBefore tells the journal how far the response has come before the bytes leave, as
// tell does.
func (c *Conn) tellBefore(n int) {
	s := &c.streams[replication.Response]
	if to := s.next + uint64(n); c.protected.Load() && to > s.shipped {
		c.r.journal.Received(c.ID, replication.Response, to, false)
		s.shipped = to
	}
}

// releaseFresh releases up to n bytes. full: the client's leg takes no more.
func (c *Conn) releaseFresh(src *replica, bufs [][]byte, n int) (took int, full bool) {
	k, s := c.kept, &c.streams[replication.Response]
	if k.ad == nil {
		for left, i := n, 0; left > 0; i++ {
			b := bufs[i][:min(len(bufs[i]), left)]
			k.seen.open.write(b)
			left -= len(b)
		}
		c.released(src, n)
		c.tellReleased(false)
		w, err := c.client.Write(bufs, n)
		s.next += uint64(w)
		return n, err != nil || w < n
	}
	for took < n {
		b := flatten(bufs, took, n)
		piece := min(k.ad.Releasable(b, false), len(b))
		if piece == 0 {
			return took, false
		}
		b = b[:piece]
		spans := k.ad.Mask(nil, b) // before the adapter has moved on
		for at := 0; at < piece; {
			m := k.ad.Response(b[at:])
			digestMasked(k.seen.open, b, spans, at, at+m)
			at += m
			c.released(src, m)
			c.cut()
		}
		c.tellReleased(false)
		w, err := c.client.Write([][]byte{b}, piece)
		if full = err != nil || w < piece; full {
			k.hold(s.next, [][]byte{b}, s.next+uint64(w)) // a head is released whole
		}
		took += piece
		s.next += uint64(w)
		if full {
			return took, true
		}
	}
	return took, false
}

// released counts n bytes, which are in the digest already.
func (c *Conn) released(src *replica, n int) {
	v := &c.kept.seen
	v.end += uint64(n)
	if src != nil {
		src.at = v.end
	}
	if len(c.kept.replicas()) < 2 {
		return
	}
	last := v.start
	if len(v.marks) > 0 {
		last = max(last, v.marks[len(v.marks)-1].off)
	}
	if v.end-last >= markEvery {
		v.marks = append(v.marks, mark{off: v.end, sum: v.open.sum()})
	}
}

// cut closes a segment if the protocol says that a new server could start here.
func (c *Conn) cut() {
	k := c.kept
	req, ok := k.ad.Checkpoint()
	if !ok || k.plain || len(k.cuts) >= maxCuts || req == k.lastCut() {
		return
	}
	c.tellReleased(true)
	k.seen.cut()
	k.cuts = append(k.cuts, [2]uint64{replication.Request: req, replication.Response: k.seen.end})
}

// lastCut is the request offset of the newest checkpoint.
func (k *kept) lastCut() uint64 {
	if n := len(k.cuts); n > 0 {
		return k.cuts[n-1][replication.Request]
	}
	return k.ckpt[replication.Request]
}

// tellReleased tells the journal what the client has got, and then what it has
// acknowledged of that, if that was known before.
func (c *Conn) tellReleased(cut bool) {
	k := c.kept
	end, told := k.seen.end, k.told.Load()
	if end == told && !cut {
		return
	}
	if !k.plain && c.protected.Load() {
		rel := replication.Released{End: end, Sum: k.seen.open.sum(), Cut: cut}
		if k.ad != nil {
			rel.State = k.ad.State(nil)
		}
		c.r.journal.Released(c.ID, rel)
	}
	k.told.Store(end)
	if d := c.streams[replication.Response].delivered.Load(); d > told {
		c.deliver(replication.Response, d)
	}
}

// checkpoint moves the point at which a new server starts, once the client has
// acknowledged the response before it: until then it may have to be made again.
func (c *Conn) checkpoint() {
	k := c.kept
	n := 0
	resp, req := c.streams[replication.Response].delivered.Load(), c.streams[replication.Request].delivered.Load()
	for n < len(k.cuts) && k.cuts[n][replication.Response] <= resp && k.cuts[n][replication.Request] <= req {
		n++
	}
	if n == 0 {
		return
	}
	k.ckpt = k.cuts[n-1]
	k.cuts = append(k.cuts[:0], k.cuts[n:]...)
	if c.protected.Load() {
		// The packet path may not have come to telling the journal yet.
		c.deliver(replication.Response, k.ckpt[replication.Response])
		c.deliver(replication.Request, k.ckpt[replication.Request])
		c.r.journal.Checkpoint(c.ID, k.ckpt)
	}
}

// deliver notes that the receiver of s has acknowledged everything below off.
func (c *Conn) deliver(s replication.Stream, off uint64) {
	// Raised first: a worker that adopts the connection has either seen it, or it is
	// seen here that the journal is to be told.
	if off > c.streams[s].delivered.Load() {
		c.movedAt.Store(int64(c.r.now()))
	}
	raise(&c.streams[s].delivered, off)
	if !c.protected.Load() {
		return
	}
	if k := c.kept; k != nil && s == replication.Response {
		// The standby must not know of an acknowledgement of what it has no digest of.
		if off = min(off, k.told.Load()); off == 0 {
			return
		}
	}
	c.r.journal.Delivered(c.ID, s, off)
}

// endResponse passes the server's FIN on: it is believed.
func (c *Conn) endResponse() {
	k, s := c.kept, &c.streams[replication.Response]
	c.tellReleased(false)
	if c.protected.Load() {
		c.r.journal.Received(c.ID, replication.Response, k.seen.end+1, true)
		s.shipped = k.seen.end + 1
	}
	s.finPassed, s.end = true, k.seen.end
	k.told.Store(k.seen.end + 1)
	c.client.CloseWrite()
}
