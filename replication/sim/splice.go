package sim

import (
	"maps"
	"math/rand/v2"
	"slices"

	"lockstep/replication"
)

// A spliced connection is passed on between its two ends: every byte and every
// acknowledgement is theirs, the gateway has a record and looks for the end. What is drawn for
// them is drawn apart, so that worlds without them stay what they were.

// chooseSpliced lets connections be spliced in two thirds of the worlds.
func (w *world) chooseSpliced(cfg config) {
	if cfg.Seed%3 != 0 && !cfg.Terminated {
		w.splicing = rand.New(rand.NewPCG(cfg.Seed, 2))
	}
}

// mayBeSpliced draws whether a new flow's service passes connections on.
func (w *world) mayBeSpliced() bool { return w.splicing != nil && w.splicing.IntN(2) == 0 }

// splicedConn is what the gateway knows of a connection that it passes on. A successor begins with nothing.
type splicedConn struct {
	end   [2]uint64 // offset behind the FIN of each stream, 0: not seen
	acked [2]uint64 // the highest acknowledgement of each stream
}

// pass takes a segment of a spliced connection: it goes to the other end as it is.
func (n *node) pass(fromClient bool, g *gwConn, seg segment) {
	if !g.dialled || !g.opened && seg.kind != segRST {
		return // invariant 1: nothing passes before the standby has the record
	}
	if seg.kind != segRST { // which binds nobody
		n.w.mustBeHeld(n, g, "a segment that is passed on")
	}
	seg.inc = g.inc
	if !fromClient {
		seg.flow = g.f
	}
	n.send(!fromClient, g, seg)
	if seg.kind == segRST {
		g.gone = true
		if !g.finished {
			n.call("close", n.sh.Close(n.now(), g.id, replication.Aborted))
		}
		return
	}
	in, out := replication.Request, replication.Response
	if !fromClient {
		in, out = out, in
	}
	p := &g.passed
	if seg.fin {
		p.end[in] = seg.off + uint64(len(seg.data)) + 1
	}
	if seg.hasAck {
		p.acked[out] = max(p.acked[out], seg.ack)
	}
	if g.finished || p.end[0] == 0 || p.end[1] == 0 || p.acked[0] < p.end[0] || p.acked[1] < p.end[1] {
		return
	}
	g.finished = true // a tombstone, which passes on what is repeated
	n.w.logf("%s: flow %d finished, spliced", n.name, g.f.n)
	n.call("close", n.sh.Close(n.now(), g.id, replication.Finished))
}

// addLater makes a connection that is continued some time later, or when a segment of it comes.
func (n *node) addLater(g *gwConn) {
	n.resting[g.f] = g
	n.serve(n.w.between(0, 100*millis), func() { n.wake(g.f) })
}

// wake makes a flow's connection, if it is still to be made.
func (n *node) wake(f *flow) {
	g := n.resting[f]
	if g == nil {
		return
	}
	delete(n.resting, f)
	n.add(g)
	n.w.seen.SplicedWoken++
	n.call("continued", n.sh.Continued(n.now(), g.id))
}

// all are a table's connections, be they made or not.
func (t *table) all() []*gwConn {
	later := slices.SortedFunc(maps.Values(t.resting), func(a, b *gwConn) int { return a.f.n - b.f.n })
	return slices.Concat(t.ordered, later)
}

// rests reports whether a connection of a former table is continued and not made yet.
func (t *table) rests(g *gwConn) bool {
	r := t.resting[g.f]
	return r != nil && r.id == g.id
}

// tend asks the ends of a connection whose beginning was not seen here whether they still have it. Who has
// not answers with a RST, which ends it.
func (n *node) tend(g *gwConn) {
	n.serve(n.w.between(50*millis, 150*millis), func() {
		if g.gone || g.finished || g.f.lost {
			return
		}
		if !n.silent() {
			n.send(true, g, segment{kind: segProbe, flow: g.f, inc: g.inc})
		}
		n.tend(g)
	})
}

// observeSpliced checks what a standby continues of a connection that is passed on.
func (w *world) observeSpliced(g *gwConn, k *replication.Continue) {
	if k.Log != nil || k.Streams[0].Held+k.Streams[1].Held+k.Streams[0].Delivered+k.Streams[1].Delivered > 0 ||
		len(k.Streams[0].Bytes)+len(k.Streams[1].Bytes) > 0 {
		w.failf("flow %d is spliced, and the standby holds something of it: %+v", g.f.n, k)
	}
	w.seen.SplicedContinued++
	if k.Finished {
		w.seen.SplicedTombstone++
	}
	if g.continued > 1 {
		w.seen.SplicedContinuedAgain++
	}
}
