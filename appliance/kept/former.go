package kept

import "bytes"

// What a former source has sent, and the standby has, behind what the client has got. It is the
// client's, unless the next source begins a head anew; in either case the next one's own
// comes behind it only when the two are known to agree. Until then the standby is not told of its
// leg, which it would continue behind bytes that the leg's server has not sent.

// own reports whether what follows what was released is src's own, or has shown to be the same. A nil
// src has nothing of its own.
func (k *Kept) own(src *replica) bool {
	if k.seen.end >= k.formerTo {
		return true
	}
	if src == nil || src.at < k.seen.end || k.unlike == src || k.heldAt > k.seen.end {
		return false
	}
	kept := k.held[k.seen.end-k.heldAt:]
	b, ok := k.says(src, len(kept))
	if !ok {
		return false
	}
	if !bytes.Equal(b, kept) {
		k.unlike = src
		return false
	}
	k.formerTo = k.seen.end
	return true
}

// settled reports whether r agrees with all that the client has, and the standby.
func (k *Kept) settled(r *replica) bool { return k.own(r) && r.at >= k.seen.end }

// says returns n bytes that src has sent behind what was released, if it has.
func (k *Kept) says(src *replica, n int) ([]byte, bool) {
	if !src.leg.Established() {
		return nil, false
	}
	bufs, got, _ := src.leg.Peek(nil, int(k.seen.end-src.base), n)
	if got < n {
		return nil, false
	}
	b := make([]byte, 0, n)
	for _, x := range bufs {
		b = append(b, x[:min(len(x), n-len(b))]...)
	}
	return b, true
}

// ownHead lets src begin a head anew of which a former source's first bytes are kept, and the
// client has none. Its own have to agree with them but for what is masked; and the standby, which
// has them, has to forget them first: it would send the one's beginning and the other's rest.
func (k *Kept) ownHead(src *replica, bufs [][]byte) bool {
	if src == nil || src.at < k.seen.end {
		return false
	}
	kept := flatten(bufs, 0, int(k.formerTo-k.seen.end))
	b, ok := k.says(src, len(kept))
	if !ok {
		return false
	}
	at := 0
	for _, m := range append(k.ad.Mask(nil, b), [2]int{len(b), len(b)}) {
		if !bytes.Equal(b[at:m[0]], kept[at:m[0]]) {
			k.differs(src)
			return true
		}
		at = m[1]
	}
	if k.flags.Protected.Load() {
		k.host.Unwanted()
		k.journal.Forgo(k.id) // Conn.Unprotect comes here again
		return false
	}
	k.held, k.formerTo = nil, k.seen.end
	return true
}

// A head that the client has a part of has to be continued by the server that has begun it: of
// another one only what is not masked is known to be the same.

// maxHeads is how many heads of one replica are remembered; the last ones are taken for one.
const maxHeads = 64

// head remembers of a message that r has sent, whose bytes from to to begin at off, where it may not
// continue another server's: within the head, up to the last byte of spans, which are masked.
func (r *replica) head(off uint64, spans [][2]int, from, to int) {
	last := 0
	for _, m := range spans {
		if m[0] < to && m[1] > from {
			last = min(m[1], to) - from
		}
	}
	switch n := len(r.heads); {
	case last == 0 || !r.k.restored:
	case n < maxHeads:
		r.heads = append(r.heads, [2]uint64{off, off + uint64(last)})
	default:
		r.heads[n-1][1] = off + uint64(last)
	}
}

// splits reports whether a head would be of two servers if r's bytes followed what the client has, or
// gets, of another one's.
func (k *Kept) splits(r *replica) bool {
	if !k.restored {
		return false // all that was released is in the client's leg, or held
	}
	has, _ := k.client.PeerHas()
	at := max(has, k.streams[1].Next)
	if len(k.held) > 0 {
		at = max(at, k.heldAt+uint64(len(k.held)))
	}
	for _, h := range r.heads {
		if h[0] < at && at < h[1] {
			return true
		}
	}
	return false
}
