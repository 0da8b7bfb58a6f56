package kept

import (
	"sync/atomic"
	"time"

	"lockstep/appliance/adapter"
	"lockstep/appliance/carry"
	"lockstep/replication"
	"lockstep/stack"
)

// replica is one server's leg of a kept connection. The worker owns all but the
// atomic fields.
type replica struct {
	k      *Kept
	leg    *stack.Leg
	server int    // in Service.Pool
	checks uint64 // that its server had failed when it was dialled
	// start are the offsets in the connection's streams at which the leg's own begin:
	// 0 for the first leg, the checkpoint for one that was replayed.
	start [2]uint64
	born  time.Duration
	quiet bool     // continued, and not asked at that whether it knows of the connection
	dial  dialling // ends with its server's answer
	// failing is since when it would be given up for its health check; 0: it would not.
	failing time.Duration

	replicaLine
	replicaRequest
	replicaOutput
	replicaDoubt
	pace pace

	asked carry.Asked

	// What the packet path tells.
	acked    atomic.Uint64 // request offset that its server has acknowledged
	recorded atomic.Bool   // the journal knows this leg as the connection's
}

// replicaLine names the server's process, see Options.Line; 0: unknown. nextLine is one that
// has begun since, when so much of the request (nextFrom) was told.
type replicaLine struct {
	line, nextLine, nextFrom uint64
}

// replicaRequest is how much of the request its server was told. It belongs, as the next two do,
// to the connection's worker.
type replicaRequest struct {
	written  uint64 // request offset of the first byte not yet written to it
	finSent  bool   // and the FIN was
	finAcked bool   // its server's FIN was acknowledged when a standby joined
}

// replicaOutput is where it is in its own response.
type replicaOutput struct {
	base   uint64 // response offset of the front of its receive queue
	at     uint64 // below it the response is released, or verified equal to what was
	sum    *digest
	ad     adapter.Adapter // follows what this server sends; raw for the first source
	ended  bool            // its FIN is at `at`, seen when it was no source
	heads  [][2]uint64     // see head
	agreed uint64          // the last position at which its output was the same as what was released
}

// replicaDoubt: its output differs at doubtAt from what was released; with three replicas
// the third decides which of the two is wrong. If that one differs at another
// position, whoever is behind is followed to there.
type replicaDoubt struct {
	doubt    bool
	doubtAt  uint64
	doubtSum [16]byte
}

// Wake implements stack.Events.
func (r *replica) Wake(*stack.Leg) { r.k.host.Wake() }

// Delivered implements stack.Events.
func (r *replica) Delivered(_ *stack.Leg, off uint64) {
	off += r.start[replication.Request]
	carry.Raise(&r.acked, off)
	r.tell(off)
	r.k.host.Wake()
}

// tell tells the journal what the recorded leg's server has acknowledged. Others' need no lock.
func (r *replica) tell(off uint64) {
	if !r.recorded.Load() {
		return
	}
	r.k.recording.Lock()
	defer r.k.recording.Unlock()
	if r.recorded.Load() {
		r.k.Deliver(replication.Request, off)
	}
}

// permit lets ACKs to the server cover off, an offset of the response.
func (r *replica) permit(off uint64) {
	if start := r.start[replication.Response]; off > start {
		r.leg.Permit(off - start)
	}
}

// feed writes to the server what it has not been told of the request. It reports
// false if the leg's buffer is full, or the leg is not there yet.
func (r *replica) feed(k *Kept) bool {
	if !r.leg.Established() {
		return false
	}
	to, fin := r.paced(k)
	for r.written < to {
		bufs := carry.Buffers()
		bufs, n := k.log.from(bufs, r.written, int(min(carry.MoveMax, to-r.written)))
		w, err := r.leg.Write(bufs, n)
		feed(r.ad, bufs, w)
		carry.Release(bufs)
		r.written += uint64(w)
		if err != nil || w < n {
			return false
		}
	}
	if s := &r.k.streams[replication.Request]; s.FinPassed && fin && !r.finSent {
		r.finSent = true
		r.leg.CloseWrite()
		r.ad.RequestEnd()
	}
	return true
}

func feed(ad adapter.Adapter, bufs [][]byte, n int) {
	for _, b := range bufs {
		b = b[:min(len(b), n)]
		ad.Request(b)
		n -= len(b)
	}
}

// finding is what verifying a replica has shown.
type finding uint8

const (
	sound    finding = iota
	diverged         // its output is not what the client has got
	early            // it has ended before the point that another one has reached
)

// verify compares what the replica has sent with what was released, as far as both
// go. It never reads beyond what was released, so at its end the receive queue
// begins where the client is to go on.
func (r *replica) verify(k *Kept) finding {
	for to := r.due(k); r.at < to && r.leg.Established(); to = r.due(k) {
		bufs := carry.Buffers()
		bufs, n, eof := r.leg.Peek(bufs, int(r.at-r.base), int(to-r.at))
		took, ok := r.absorb(bufs, n, int(to-r.at), eof)
		carry.Release(bufs)
		r.at += uint64(took)
		if !ok {
			r.doubt = false // it cannot be followed any further
			return diverged
		}
		if r.at == to {
			sum, cut := k.seen.at(to)
			r.k.svc.counts.compared.Add(1)
			if own := r.sum.sum(); r.doubt || own != sum {
				r.doubt, r.doubtAt, r.doubtSum = true, to, own
				return diverged
			}
			r.agreed = to
			if cut {
				r.sum.reset()
			}
			k.discard(r)
			continue
		}
		if eof && n == took {
			if r.doubt {
				r.doubt = false
				return diverged
			}
			return early
		}
		if took == 0 {
			return sound
		}
		k.discard(r)
	}
	if r.at == k.seen.end && !r.ended && r.leg.Established() {
		_, n, eof := r.leg.Peek(nil, int(r.at-r.base), 1)
		r.ended = eof && n == 0
	}
	return sound
}

// due is the position at which r is to be compared next: with what was released, or,
// when it is in doubt, with another one that is.
func (r *replica) due(k *Kept) uint64 {
	if !r.doubt {
		return k.seen.next(r.at)
	}
	to := r.doubtAt
	for _, x := range k.replicas() {
		if x.differs(r) {
			to = max(to, x.doubtAt)
		}
	}
	return to
}

// differs reports whether x is in doubt, too, and at another position than r, where
// both may still turn out to have the same. Not if either has agreed with what was
// released where, or after, the other one has not; so no segment ends between the two.
func (x *replica) differs(r *replica) bool {
	return x != r && x.doubt && x.doubtAt != r.doubtAt && x.agreed < r.doubtAt && r.agreed < x.doubtAt
}

// absorb takes n bytes into the replica's digest, want of which would reach the next
// point of comparison. ok is false if the protocol's adapter finds that they cannot
// be the same message.
func (r *replica) absorb(bufs [][]byte, n, want int, eof bool) (took int, ok bool) {
	if raw(r.ad) {
		for _, b := range bufs {
			r.sum.write(b)
		}
		return n, true
	}
	for took < n {
		b := flatten(bufs, took, n)
		k := r.ad.Releasable(b, eof && took+len(b) == n)
		if k == 0 {
			return took, n < want // a head that is longer than the one released
		}
		k = min(k, len(b))
		spans := r.ad.Mask(nil, b[:k])
		digestMasked(r.sum, b, spans, 0, k)
		for at := 0; at < k; {
			m := r.ad.Response(b[at:k])
			r.head(r.at+uint64(took+at), spans, at, at+m)
			at += m
		}
		took += k
	}
	return took, true
}

// flatten returns the bytes of bufs from skip on, up to n in all, in one piece: at
// least as many as a head may have.
func flatten(bufs [][]byte, skip, n int) []byte {
	rest, _ := carry.After(bufs, skip)
	left := n - skip
	if len(rest) == 0 {
		return nil
	}
	if len(rest[0]) >= left || len(rest[0]) >= flatSize {
		return rest[0][:min(len(rest[0]), left)]
	}
	b := make([]byte, 0, min(left, 2*flatSize))
	for _, x := range rest {
		b = append(b, x[:min(len(x), left-len(b), cap(b)-len(b))]...)
		if len(b) == cap(b) {
			break
		}
	}
	return b
}

// flatSize is how many contiguous bytes an adapter is shown at least, if there are.
const flatSize = 64 << 10

// digestMasked adds b[from:to] to d, with every byte of what differs by nature as a
// star. spans are those of b, in order.
func digestMasked(d *digest, b []byte, spans [][2]int, from, to int) {
	for _, m := range spans {
		lo, hi := max(m[0], from), min(m[1], to)
		if lo >= hi {
			continue
		}
		d.write(b[from:lo])
		for i := lo; i < hi; i += len(stars) {
			d.write(stars[:min(len(stars), hi-i)])
		}
		from = hi
	}
	d.write(b[from:to])
}

var stars = []byte("********************************")
