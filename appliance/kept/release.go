package kept

import (
	"lockstep/appliance/carry"
	"lockstep/replication"
)

// releaseResponse carries response bytes from the source to the client. What has
// been written to the client's leg is released: from then on every server's output
// has to agree with it. again: there is more.
func (k *Kept) releaseResponse() (again bool) {
	s := &k.streams[replication.Response]
	if s.FinPassed || !k.client.Established() || !k.client.Confirmed() {
		return false
	}
	src := k.source
	if src != nil && src.leg.Err() != nil && !k.claim.release {
		src = nil
	}
	own := k.own(src)
	bufs := carry.Buffers()
	defer func() { carry.Release(bufs) }()
	bufs, n, eof := k.peekResponse(src, bufs)
	if own && src != nil && src.at < k.seen.end && s.Next >= k.seen.end {
		return false // it has not agreed yet with what a former source had sent, see elect
	}
	if s.Next < k.seen.end {
		// Released by the former active, or before the client's leg had room for it.
		if own && k.mayRelease() {
			k.tellBefore(n) // what comes behind it waits for the client as well, and its server for the ACK
		}
		n = int(min(uint64(n), k.seen.end-s.Next))
		w, err := k.client.Write(bufs, n)
		s.Next += uint64(w)
		return err == nil && w == n && n > 0
	}
	if own && !k.mayRelease() {
		return false
	}
	if !own {
		n = int(min(uint64(n), k.formerTo-k.seen.end))
	}
	if n > 0 {
		k.tellBefore(n)
		from := src
		if !own {
			from = nil
		}
		took, full := k.releaseFresh(from, bufs, n)
		k.tellReleased(false)
		if full {
			return false
		}
		if took < n && !eof {
			return took == 0 && !own && k.ownHead(src, bufs) // else the rest of a head is awaited
		}
		if took == n && !eof {
			return true
		}
	}
	if eof {
		k.ending(src)
	}
	return false
}

// peekResponse returns the bytes that the client is to get next: those that are held, and
// then the source's, unless it has not made the former.
func (k *Kept) peekResponse(src *replica, bufs [][]byte) (_ [][]byte, n int, eof bool) {
	s := &k.streams[replication.Response]
	if b := k.holds(s.Next); len(b) > 0 {
		b = b[:min(len(b), carry.MoveMax)]
		bufs, n = append(bufs, b), len(b)
		if at := s.Next + uint64(n); n < carry.MoveMax && k.seen.end >= k.formerTo && src != nil && src.leg.Established() && at >= src.base {
			var more int
			bufs, more, eof = src.leg.Peek(bufs, int(at-src.base), carry.MoveMax-n) // of a head, say
			n += more
		}
		return bufs, n, eof
	}
	if src == nil || !src.leg.Established() || s.Next < src.base {
		return bufs, 0, false
	}
	return src.leg.Peek(bufs, int(s.Next-src.base), carry.MoveMax)
}

// tellBefore tells the journal how far the response has come before the bytes leave, as
// carry.Stream.Tell does.
func (k *Kept) tellBefore(n int) {
	s := &k.streams[replication.Response]
	if to := s.Next + uint64(n); k.flags.Protected.Load() && to > s.Shipped {
		k.journal.Received(k.id, replication.Response, to, false)
		s.Shipped = to
	}
}

// releaseFresh releases up to n bytes. full: the client's leg takes no more.
func (k *Kept) releaseFresh(src *replica, bufs [][]byte, n int) (took int, full bool) {
	s := &k.streams[replication.Response]
	if raw(k.ad) {
		for left, i := n, 0; left > 0; i++ {
			b := bufs[i][:min(len(bufs[i]), left)]
			k.seen.open.write(b)
			left -= len(b)
		}
		k.released(src, n)
		k.tellReleased(false)
		w, err := k.client.Write(bufs, n)
		s.Next += uint64(w)
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
			k.released(src, m)
			k.cut()
		}
		k.tellReleased(false)
		w, err := k.client.Write([][]byte{b}, piece)
		if full = err != nil || w < piece; full {
			k.hold(s.Next, [][]byte{b}, s.Next+uint64(w)) // a head is released whole
		}
		took += piece
		s.Next += uint64(w)
		if full {
			return took, true
		}
	}
	return took, false
}

// released counts n bytes, which are in the digest already. src is nil if they are a former
// source's: the present one has to agree with them.
func (k *Kept) released(src *replica, n int) {
	v := &k.seen
	v.end += uint64(n)
	if src != nil {
		src.at = v.end
	}
	if len(k.replicas()) < 2 {
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
func (k *Kept) cut() {
	req, ok := k.ad.Checkpoint()
	if !ok || k.plain || len(k.cuts) >= maxCuts || req == k.lastCut() {
		return
	}
	k.tellReleased(true)
	k.seen.cut()
	k.cuts = append(k.cuts, [2]uint64{replication.Request: req, replication.Response: k.seen.end})
}

// lastCut is the request offset of the newest checkpoint.
func (k *Kept) lastCut() uint64 {
	if n := len(k.cuts); n > 0 {
		return k.cuts[n-1][replication.Request]
	}
	return k.ckpt[replication.Request]
}

// tellReleased tells the journal what the client has got, and then what it has
// acknowledged of that, if that was known before.
func (k *Kept) tellReleased(cut bool) {
	end, told := k.seen.end, k.told.Load()
	if end == told && !cut {
		return
	}
	if !k.plain && k.flags.Protected.Load() {
		k.journal.Released(k.id, replication.Released{End: end, Sum: k.seen.open.sum(), Cut: cut, State: k.ad.State(nil)})
	}
	k.told.Store(end)
	if d := k.streams[replication.Response].Delivered.Load(); d > told {
		k.Deliver(replication.Response, d)
	}
}

// checkpoint moves the point at which a new server starts, once the client has
// acknowledged the response before it: until then it may have to be made again.
func (k *Kept) checkpoint() {
	n := 0
	resp, req := k.streams[replication.Response].Delivered.Load(), k.streams[replication.Request].Delivered.Load()
	for n < len(k.cuts) && k.cuts[n][replication.Response] <= resp && k.cuts[n][replication.Request] <= req {
		n++
	}
	if n == 0 {
		return
	}
	k.ckpt = k.cuts[n-1]
	k.cuts = append(k.cuts[:0], k.cuts[n:]...)
	if k.flags.Protected.Load() {
		// The packet path may not have come to telling the journal yet.
		k.Deliver(replication.Response, k.ckpt[replication.Response])
		k.Deliver(replication.Request, k.ckpt[replication.Request])
		k.journal.Checkpoint(k.id, k.ckpt)
	}
}

// Deliver notes that the receiver of s has acknowledged everything below off.
func (k *Kept) Deliver(s replication.Stream, off uint64) {
	// Raised first: a worker that adopts the connection has either seen it, or it is
	// seen here that the journal is to be told.
	if off > k.streams[s].Delivered.Load() {
		k.flags.Moved.Store(int64(k.host.Now()))
	}
	carry.Raise(&k.streams[s].Delivered, off)
	if !k.flags.Protected.Load() {
		return
	}
	if s == replication.Response {
		// The standby must not know of an acknowledgement of what it has no digest of.
		if off = min(off, k.told.Load()); off == 0 {
			return
		}
	}
	k.journal.Delivered(k.id, s, off)
}

// endResponse passes the server's FIN on: it is believed.
func (k *Kept) endResponse() {
	s := &k.streams[replication.Response]
	k.tellReleased(false)
	if k.flags.Protected.Load() {
		k.journal.Received(k.id, replication.Response, k.seen.end+1, true)
		s.Shipped = k.seen.end + 1
	}
	s.FinPassed, s.End = true, k.seen.end
	if k.host.Wanted() {
		k.host.Wake() // a standby waits for it
	}
	k.told.Store(k.seen.end + 1)
	k.client.CloseWrite()
}

// ship hands over response bytes that the journal asked for, from the source's receive queue. As
// long as there is no source it has to wait. What the client has not got yet is also
// kept here: the server may forget it now, and its next one has to agree with it.
func (k *Kept) ship() {
	s := &k.streams[replication.Response]
	from, to := s.NeedFrom.Load(), s.NeedTo.Load()
	if to == 0 || !k.flags.Protected.Load() || k.source == nil || !k.source.recorded.Load() {
		return // what the standby has is of the leg that it would continue
	}
	s.NeedTo.Store(0)
	fin := s.FinPassed && to > s.End
	if fin {
		to = s.End
	}
	if from < k.source.base {
		return // delivered meanwhile, or the standby was given it at the takeover
	}
	bufs := carry.Buffers()
	var n int
	if to > from {
		bufs, n, _ = k.source.leg.Peek(bufs, int(from-k.source.base), int(to-from))
	}
	k.hold(from, bufs, s.Next)
	k.journal.Data(k.id, replication.Response, from, bufs, fin && from+uint64(n) == s.End)
	carry.Release(bufs)
}

// hold copies what lies behind next of the bytes from off on.
func (k *Kept) hold(off uint64, bufs [][]byte, next uint64) {
	end := k.heldAt + uint64(len(k.held))
	if len(k.held) == 0 {
		k.heldAt, end = max(off, next), max(off, next)
	}
	for _, b := range bufs {
		if to := off + uint64(len(b)); to > end && off <= end {
			k.held = append(k.held, b[end-off:]...)
			end = to
		}
		off += uint64(len(b))
	}
}

// holds returns the held bytes from off on, and lets go of those before.
func (k *Kept) holds(off uint64) []byte {
	if len(k.held) == 0 || off < k.heldAt {
		return nil
	}
	gone := min(off-k.heldAt, uint64(len(k.held)))
	k.keepReleased(k.held[:gone])
	if gone < uint64(len(k.held)) {
		k.held, k.heldAt = k.held[gone:], off
		return k.held
	}
	k.held = nil
	return nil
}
