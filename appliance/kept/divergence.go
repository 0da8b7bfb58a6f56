package kept

import (
	"fmt"
	"strconv"

	"lockstep/replication"
)

// What differs is told: the digests say that it does, and roughly where. So that a
// person can see what, each digest keeps a few of the bytes that it is made of, the
// first since the last checkpoint, where a server puts what is its own (salts, cookies,
// numbers of sessions), and the last.

const (
	headMax = 512 // bytes from the last cut on
	tailMax = 256 // the newest bytes
	// showBefore and showAfter are how much is shown of each side around the first byte
	// that differs.
	showBefore, showAfter = 16, 24
)

// sample is a few of the bytes that a digest is made of, by their offsets in the
// response. The zero value begins at 0.
type sample struct {
	begin uint64 // nothing below is known
	cut   uint64 // head begins here
	end   uint64
	head  [headMax]byte
	tail  [tailMax]byte // by offset modulo its length
}

func (s *sample) startAt(off uint64) { s.begin, s.cut, s.end = off, off, off }

func (s *sample) add(b []byte) {
	if at := s.end - s.cut; at < headMax {
		copy(s.head[at:], b)
	}
	last := b[max(len(b)-tailMax, 0):]
	for i := range last {
		s.tail[(s.end+uint64(len(b)-len(last)+i))%tailMax] = last[i]
	}
	s.end += uint64(len(b))
}

// at returns the byte at off, if it is known.
func (s *sample) at(off uint64) (b byte, known bool) {
	switch {
	case off < s.begin || off >= s.end:
		return 0, false
	case off >= s.cut && off-s.cut < headMax:
		return s.head[off-s.cut], true
	case s.end-off <= tailMax:
		return s.tail[off%tailMax], true
	}
	return 0, false
}

// from returns what is known from off on, without a gap.
func (s *sample) from(off uint64, limit int) (bytes []byte) {
	for len(bytes) < limit {
		b, known := s.at(off + uint64(len(bytes)))
		if !known {
			break
		}
		bytes = append(bytes, b)
	}
	return bytes
}

// Divergence tells how a server's output differs from what the client has, or that a
// server does not follow the request again as far as the client is.
type Divergence struct {
	Conn   replication.ConnID
	Server int // in Service.Pool
	// Offset in the response, of the first byte that is known to differ; if Exact is
	// false they differ somewhere between the last comparison and here.
	Offset uint64
	Exact  bool
	// Client and Sent are a few bytes around it of either side, quoted and escaped; empty
	// if they are not known any more. What a protocol hides as different by nature shows
	// as stars.
	Client, Sent string
	// Ended says how the server has ended its stream, if it did so too early. Short: nothing that it
	// had sent is known to differ. So ends one that is killed: it is told, but no divergence.
	Ended string
	Short bool
}

func (d *Divergence) String() string {
	what := "differs at byte"
	switch {
	case d.Ended != "":
		what = d.Ended + " at byte"
	case !d.Exact:
		what = "differs before byte"
	}
	text := fmt.Sprintf("%s %d of the response", what, d.Offset)
	if d.Client != "" {
		text += ": the client has " + d.Client
		if d.Sent != "" {
			text += ", the server sent " + d.Sent
		}
		return text
	}
	if d.Sent != "" {
		text += ": the server sent " + d.Sent
	}
	return text
}

// quote escapes bytes for a log; none is the empty string.
func quote(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	return strconv.QuoteToASCII(string(b))
}

// differ finds the first byte in [from, to) that is known of both and differs.
func differ(a, b *sample, from, to uint64) (off uint64, found bool) {
	look := func(lo, hi uint64) bool {
		for off = max(lo, from); off < min(hi, to); off++ {
			x, known := a.at(off)
			if y, too := b.at(off); known && too && x != y {
				return true
			}
		}
		return false
	}
	for _, s := range [2]*sample{a, b} {
		if look(s.cut, s.cut+headMax) {
			return off, true
		}
	}
	if look(max(a.end, tailMax)-tailMax, a.end) {
		return off, true
	}
	return to, false
}

// divergence describes where r has left what was released.
func (k *Kept) divergence(r *replica, to uint64) Divergence {
	a := &k.seen.open.sample
	var b sample // and what it has sent that is in no digest yet
	if r.sum != nil {
		b = r.sum.sample
	}
	if r.leg.Established() && r.at >= r.base {
		bufs, n, _ := r.leg.Peek(nil, int(r.at-r.base), showAfter)
		for _, x := range bufs {
			b.add(x[:min(len(x), n)])
			n -= min(len(x), n)
		}
	}
	d := Divergence{Conn: k.id, Server: r.server}
	d.Offset, d.Exact = differ(a, &b, r.agreed, to)
	at := max(d.Offset, r.agreed+showBefore) - showBefore
	if !d.Exact {
		at = max(min(to, b.end), r.agreed+showBefore+showAfter) - showBefore - showAfter
	}
	d.Client, d.Sent = quote(a.from(at, showBefore+showAfter)), quote(b.from(at, showBefore+showAfter))
	return d
}

// diverged counts a divergence and tells what differs; to is where it was noticed.
func (k *Kept) diverged(r *replica, to uint64) {
	k.svc.counts.diverged.Add(1)
	if k.svc.OnDivergence != nil {
		k.svc.OnDivergence(k.divergence(r, to))
	}
}

// refusals is how often a server may end a replay too early, with something else than the client
// has, before that counts as a divergence: one that is just starting may say so and hang up. It is
// tried on, ever more rarely, until the service's patience is over.
const refusals = 3

// refusal is how often a server has ended a replay too early, and how often of that with other bytes.
type refusal struct{ times, other int }

// refused notes that a server has ended its stream before the point that the client has
// reached. It is told at once, and counted when the server has said something else again and again. That
// it only falls short does not count, however often: a server that is killed does.
func (k *Kept) refused(r *replica, how string) {
	if r.at >= k.seen.end {
		return
	}
	if k.refusedBy == nil {
		k.refusedBy = map[int]refusal{}
	}
	d := k.divergence(r, r.at)
	n := k.refusedBy[r.server]
	n.times++
	if d.Exact {
		n.other++
	}
	k.refusedBy[r.server] = n
	k.svc.counts.refused.Add(1)
	if d.Exact && n.other == refusals {
		k.svc.counts.diverged.Add(1)
	}
	if first := n.times == 1 || d.Exact && n.other == 1; first && k.svc.OnDivergence != nil {
		d.Ended, d.Short, d.Exact, d.Offset = how, !d.Exact, true, r.at
		k.svc.OnDivergence(d)
	}
}
