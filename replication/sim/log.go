package sim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"

	"lockstep/replication"
	"lockstep/replication/wire"
)

// gwLog is the relay's own log of a logged connection. Its request bytes are not kept:
// the pattern says what they are. Nothing is replayed here; a server leg that is switched
// is one more record of the same server's.
type gwLog struct {
	checkpoint [2]uint64
	segments   []replication.Segment // the last one is open
	sum        sum                   // of the open one
}

// history is what the relays of a connection have ever said of its log and legs,
// for the observer. A successor goes on with it.
type history struct {
	logged, unlogged bool
	checkpoints      [][2]uint64
	cuts             []uint64
	released         uint64
	legs             []serverLeg // the last one serves
	legHeld          int         // of legs: the standby holds that one or a later one
}

func (h *history) clone() *history {
	c := *h
	c.checkpoints, c.cuts, c.legs = slices.Clone(h.checkpoints), slices.Clone(h.cuts), slices.Clone(h.legs)
	return &c
}

// serverLeg is what Core.ServerLeg is told.
type serverLeg struct {
	leg   replication.LegRecord
	start [2]uint64
}

// dataEnd is the offset behind the last byte received, the FIN not counted.
func (st *gwStream) dataEnd() uint64 {
	if st.fin {
		return st.rcv - 1
	}
	return st.rcv
}

// unaData is how far the receiver has the data.
func (st *gwStream) unaData() uint64 { return min(st.una, st.dataEnd()) }

// sum is the digest of a piece of a response while it grows (FNV-1a, 64 bits).
type sum uint64

const emptySum sum = 14695981039346656037

func (s sum) add(f *flow, from, to uint64) sum {
	for off := from; off < to; off++ {
		s = (s ^ sum(pattern(f.n, replication.Response, off))) * 1099511628211
	}
	return s
}

func (s sum) digest() (d replication.Digest) {
	binary.BigEndian.PutUint64(d[:], uint64(s))
	return d
}

// digest is of a piece of a flow's response.
func digest(f *flow, from, to uint64) replication.Digest { return emptySum.add(f, from, to).digest() }

// stateAt is the protocol's state at an offset of the response.
func stateAt(end uint64) []byte { return binary.BigEndian.AppendUint64(nil, end) }

func (l *gwLog) open() *replication.Segment { return &l.segments[len(l.segments)-1] }

// openFrom is where the open segment begins.
func (l *gwLog) openFrom() uint64 {
	if n := len(l.segments); n > 1 {
		return l.segments[n-2].End
	}
	return l.checkpoint[replication.Response]
}

// beginLog decides whether a new connection is logged.
func (n *node) beginLog(g *gwConn) {
	g.hist = &history{legs: []serverLeg{{g.rec.Server, g.rec.Start}}}
	if !n.w.chance(0.6) {
		return
	}
	g.rec.Logged, g.hist.logged = true, true
	g.log = &gwLog{segments: make([]replication.Segment, 1), sum: emptySum}
	g.hist.checkpoints = append(g.hist.checkpoints, g.log.checkpoint)
}

// release tells that all that was received of the response goes to the client.
func (n *node) release(g *gwConn) {
	l := g.log
	if l == nil || g.finished {
		return
	}
	open, end := l.open(), g.s[replication.Response].dataEnd()
	if end < open.End || (end == open.End && n.w.chance(0.5)) {
		return // its client was sent as much, or more by the active before
	}
	l.sum = l.sum.add(g.f, open.End, end)
	open.End, open.Sum = end, l.sum.digest()
	cut := end > l.openFrom() && len(l.segments) < 60 && n.w.chance(0.3)
	g.hist.released = max(g.hist.released, end)
	if cut {
		g.hist.cuts = append(g.hist.cuts, end)
	}
	n.call("released", n.sh.Released(n.now(), g.id, replication.Released{End: end, Sum: open.Sum, Cut: cut, State: stateAt(end)}))
	if cut {
		l.segments = append(l.segments, replication.Segment{End: end})
		l.sum = emptySum
	}
}

// maintain does one of the things that a relay does to a logged connection now and
// then.
func (n *node) maintain(g *gwConn) {
	if g.finished || g.gone || !g.opened || g.log == nil {
		return
	}
	switch x := n.w.rng.Float64(); {
	case x < 0.30:
		n.checkpoint(g)
	case x < 0.34:
		n.switchLeg(g)
	case x < 0.35:
		n.w.logf("%s: flow %d is not logged any more", n.name, g.f.n)
		n.forgetLog(g)
		n.call("unlog", n.sh.Unlog(n.now(), g.id))
	}
}

func (n *node) forgetLog(g *gwConn) {
	g.log, g.rec.Logged = nil, false
	g.hist.unlogged = true
}

// checkpoint goes to a cut that the client has acknowledged.
func (n *node) checkpoint(g *gwConn) {
	l, req, resp := g.log, &g.s[replication.Request], &g.s[replication.Response]
	gone := 0
	for gone < len(l.segments)-1 && l.segments[gone].End <= resp.unaData() && n.w.chance(0.8) {
		gone++
	}
	at := l.checkpoint
	if gone > 0 {
		at[replication.Response] = l.segments[gone-1].End
	}
	at[replication.Request] += uint64(n.w.rng.Int64N(int64(req.dataEnd()-at[replication.Request]) + 1))
	l.segments = append([]replication.Segment(nil), l.segments[gone:]...)
	l.checkpoint = at
	g.hist.checkpoints = append(g.hist.checkpoints, at)
	n.call("checkpoint", n.sh.Checkpoint(n.now(), g.id, at))
}

// switchLeg lets another leg serve; no request byte leaves before the standby has it.
func (n *node) switchLeg(g *gwConn) {
	leg := g.rec.Server
	leg.IRS = uint32(len(g.hist.legs))
	g.rec.Server, g.rec.Start = leg, g.log.checkpoint
	g.hist.legs = append(g.hist.legs, serverLeg{leg, g.log.checkpoint})
	g.legWaits = true
	n.w.logf("%s: flow %d is served by leg %d", n.name, g.f.n, leg.IRS)
	n.call("server leg", n.sh.ServerLeg(n.now(), g.id, &leg, g.log.checkpoint))
}

// adoptLog is the log as Core.Adopt wants it.
func (n *node) adoptLog(g *gwConn) *replication.Log {
	if g.log == nil {
		return nil
	}
	n.release(g)
	l := &replication.Log{
		Checkpoint: g.log.checkpoint,
		Segments:   slices.Clone(g.log.segments),
		State:      stateAt(g.log.open().End),
	}
	from, to := l.Checkpoint[replication.Request], g.s[replication.Request].unaData()
	var b []byte
	for ; from < to; from++ {
		b = append(b, pattern(g.f.n, replication.Request, from))
	}
	l.Bytes = [][]byte{b[:len(b)/2], b[len(b)/2:]}
	return l
}

// oldPeer: the standby's version cannot express a replaced leg.
func oldPeer(err error) bool { return errors.Is(err, replication.ErrVersionLeg) }

// continueLog takes over the log of a connection that was's relay had.
func (n *node) continueLog(was, g *gwConn, k *replication.Continue) {
	if was == nil {
		g.hist = new(history) // observeContinue complains
		return
	}
	g.hist = was.hist.clone() // the former active may go on for a while, and be heard by nobody
	n.w.observeLog(was, k)
	if k.Log != nil {
		l := &gwLog{checkpoint: k.Log.Checkpoint, segments: slices.Clone(k.Log.Segments)}
		l.sum = emptySum.add(g.f, l.openFrom(), l.open().End)
		g.log = l
	}
	// What the successor says from now on counts, not what died with the active.
	for i, x := range g.hist.legs {
		if x.leg == k.Record.Server {
			g.hist.legs = g.hist.legs[:i+1]
			break
		}
	}
	g.hist.legHeld = len(g.hist.legs) - 1
}

// observeLog compares the log that a standby continues with what its active has told.
func (w *world) observeLog(was *gwConn, k *replication.Continue) {
	f, hist := was.f, was.hist
	i := slices.IndexFunc(hist.legs, func(x serverLeg) bool { return x.leg == k.Record.Server })
	if i < hist.legHeld {
		w.failf("flow %d is continued with leg %d, the standby held %d (invariant 3)", f.n, i, hist.legHeld)
		return
	}
	want := was.rec
	want.Server, want.Start, want.Logged = hist.legs[i].leg, hist.legs[i].start, k.Log != nil
	if k.Record != want {
		w.failf("flow %d: record %+v became %+v", f.n, want, k.Record)
	}
	if i > 0 {
		w.seen.LegContinued++
	}
	speaks := w.plan.version >= wire.LogVersion
	switch {
	case k.Log != nil && (!hist.logged || !speaks):
		w.failf("flow %d was never logged, and has a log", f.n)
	case k.Log == nil && was.log != nil && speaks && !k.Finished:
		w.failf("flow %d was logged, and its log is lost", f.n)
	case k.Log == nil && hist.unlogged && speaks && !k.Finished:
		w.seen.UnlogContinued++
	case k.Log != nil:
		w.observeLogBytes(was, k)
	}
}

// observeLogBytes checks a log byte by byte, and against what is known of the streams.
func (w *world) observeLogBytes(was *gwConn, k *replication.Continue) {
	f, hist, l := was.f, was.hist, k.Log
	req, resp := &k.Streams[replication.Request], &k.Streams[replication.Response]
	w.seen.LogContinued++
	if was.adopted {
		w.seen.AdoptedLogContinued++
	}
	if !slices.Contains(hist.checkpoints, l.Checkpoint) {
		w.failf("flow %d: checkpoint %v was never made, %v were", f.n, l.Checkpoint, hist.checkpoints)
	}
	off, held := l.Checkpoint[replication.Request], req.Held
	if req.Fin {
		held--
	}
	b := bytes.Join(l.Bytes, nil)
	if off > held || uint64(len(b)) != held-off {
		w.failf("flow %d: log of %d bytes from %d on, the request is held up to %d", f.n, len(b), off, held)
		return
	}
	for i, x := range b {
		if x != pattern(f.n, replication.Request, off+uint64(i)) {
			w.failf("flow %d: byte %d of the log is wrong", f.n, off+uint64(i))
			return
		}
	}
	delivered := resp.Delivered
	if resp.FinDelivered {
		delivered--
	}
	at, last := l.Checkpoint[replication.Response], len(l.Segments)-1
	if at > delivered {
		w.failf("flow %d: checkpoint at %d of a response that is delivered up to %d", f.n, at, delivered)
	}
	if at > 0 {
		w.seen.CheckpointContinued++
	}
	for i, g := range l.Segments {
		switch {
		case g.End < at || (g.End == at && i < last):
			w.failf("flow %d: segment from %d to %d", f.n, at, g.End)
			return
		case i < last && !slices.Contains(hist.cuts, g.End):
			w.failf("flow %d: a segment ends at %d, where nothing was cut", f.n, g.End)
		case g.End > at && g.Sum != digest(f, at, g.End):
			w.failf("flow %d: digest from %d to %d is not that of the response", f.n, at, g.End)
		}
		at = g.End
	}
	if at > hist.released || at < delivered {
		w.failf("flow %d: released up to %d for the standby, delivered up to %d, truly released %d", f.n, at, delivered, hist.released)
	}
	if at > delivered {
		w.seen.ReleasedAhead++
	}
	if want := stateAt(at); at > 0 && !bytes.Equal(l.State, want) {
		w.failf("flow %d: state %x at %d", f.n, l.State, at)
	}
}
