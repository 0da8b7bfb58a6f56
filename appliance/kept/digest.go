package kept

import (
	"github.com/zeebo/xxh3"

	"lockstep/replication"
)

// A response is compared by position. Its offsets are cut into segments, at
// checkpoints and where an appliance took over; of each segment there is one digest,
// and while replicas run beside each other there is one every markEvery bytes, of
// the segment's bytes up to there. So what must be kept does not depend on how far
// the servers are apart but for a few bytes per markEvery.
//
// The digest is XXH3 with 128 bits: it finds accidents, which is what two honest
// servers can have. It is no defence against a server that forges its output; that
// server could send anything to the client directly.

// digest is a running digest of a segment. The zero value is not usable.
type digest struct {
	h xxh3.Hasher
	sample
}

// newDigest begins at an offset of the response.
func newDigest(at uint64) *digest {
	d := &digest{}
	d.h.Reset()
	d.sample.startAt(at)
	return d
}

func (d *digest) write(b []byte) {
	_, _ = d.h.Write(b)
	d.sample.add(b)
}

// sum is that of everything written since the last reset; the digest goes on.
func (d *digest) sum() [16]byte { return d.h.Sum128().Bytes() }

func (d *digest) reset() {
	d.h.Reset()
	d.sample.cut = d.sample.end
}

// copyFrom makes d the same as o.
func (d *digest) copyFrom(o *digest) { *d = *o }

const (
	// markEvery is the distance of marks, bytes of the response's offsets.
	markEvery = 64 << 10
	// maxMarks is how many are kept: with 24 bytes each, a replica can be 4 GiB behind
	// for 1.5 MiB. One that is further behind is given up.
	maxMarks = 64 << 10
	// maxCuts is how many checkpoints may wait for the client to acknowledge the
	// response before them.
	maxCuts = 16
)

// mark is the digest of the bytes from the beginning of a segment up to off.
type mark struct {
	off uint64
	sum [16]byte
}

// verified is what is known of the response that was released to the client: the
// closed segments, then the one that is open. Only the worker uses it.
type verified struct {
	closed []replication.Segment
	start  uint64  // where the open segment begins
	end    uint64  // released up to here
	open   *digest // of [start, end)
	marks  []mark
}

// next returns the first position after at for which there is a digest: at most end,
// for which there always is one.
func (v *verified) next(at uint64) uint64 {
	to := v.end
	for i := range v.closed {
		if v.closed[i].End > at {
			to = min(to, v.closed[i].End)
			break
		}
	}
	if i := v.markAfter(at); i < len(v.marks) {
		to = min(to, v.marks[i].off)
	}
	return to
}

// markAfter is the index of the first mark behind at.
func (v *verified) markAfter(at uint64) int {
	lo, hi := 0, len(v.marks)
	for lo < hi {
		if m := (lo + hi) / 2; v.marks[m].off > at {
			hi = m
		} else {
			lo = m + 1
		}
	}
	return lo
}

// at returns the digest of the segment's bytes up to off, a value of next. cut: a
// segment ends there.
func (v *verified) at(off uint64) (sum [16]byte, cut bool) {
	for i := range v.closed {
		if v.closed[i].End == off {
			return v.closed[i].Sum, true
		}
	}
	if i := v.markAfter(off); i > 0 && v.marks[i-1].off == off {
		return v.marks[i-1].sum, false
	}
	return v.open.sum(), false
}

// cut closes the open segment.
func (v *verified) cut() {
	if v.end == v.start {
		return
	}
	v.closed = append(v.closed, replication.Segment{End: v.end, Sum: v.open.sum()})
	v.start = v.end
	v.open.reset()
}

// forget drops segments and marks that nobody needs who begins at to or later.
func (v *verified) forget(to uint64) {
	n := 0
	for n < len(v.closed) && v.closed[n].End <= to {
		n++
	}
	if n > 0 {
		v.closed = append(v.closed[:0], v.closed[n:]...)
	}
	if n = v.markAfter(to); n > 0 {
		v.marks = append(v.marks[:0], v.marks[n:]...)
		if len(v.marks) == 0 {
			v.marks = nil
		}
	}
}

// segments is what another appliance must know: closed ones, and last the open one
// as it stands.
func (v *verified) segments() []replication.Segment {
	all := append([]replication.Segment(nil), v.closed...)
	return append(all, replication.Segment{End: v.end, Sum: v.open.sum()})
}
