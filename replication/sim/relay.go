package sim

import "lockstep/replication"

// receive takes a segment from a client or a server: the relay and the gate.
func (n *node) receive(fromClient bool, seg segment) {
	n.wake(seg.flow)
	g := n.byFlow[seg.flow]
	if seg.kind == segSYN {
		n.syn(seg.flow, g)
		return
	}
	if g == nil || g.gone || (!fromClient && seg.inc != g.inc) {
		return // unknown flows are dropped, never answered
	}
	if seg.kind == segSYNACK {
		if !g.dialled {
			g.dialled = true
			n.call("open", n.sh.Open(n.now(), n.record(g)))
		}
		return
	}
	if g.spliced {
		n.pass(fromClient, g, seg)
		return
	}
	if seg.kind == segRST {
		g.gone = true
		if g.dialled && !g.finished {
			n.call("close", n.sh.Close(n.now(), g.id, replication.Aborted))
		}
		n.toServer(g, segment{kind: segRST, flow: g.f, inc: g.inc})
		return
	}
	if !g.dialled || (fromClient && !g.opened) {
		return
	}
	in, out := replication.Request, replication.Response
	if !fromClient {
		in, out = out, in
	}
	if seg.hasAck {
		n.delivered(g, out, seg.ack)
	}
	if seg.hasData {
		n.data(g, in, seg)
	}
	n.finish(g)
}

// syn starts a connection, or repeats what answers it.
func (n *node) syn(f *flow, g *gwConn) {
	if g != nil {
		if g.opened && !g.gone {
			n.synAck(g)
		}
		return
	}
	n.next++
	f.inc++
	g = &gwConn{id: replication.ConnID(n.core.Epoch()<<32 | n.next), f: f, inc: f.inc}
	g.spliced = f.mayBeSpliced && n.core.MaySplice()
	n.add(g)
	var dial func()
	dial = func() {
		if !g.dialled && !g.gone {
			n.toServer(g, segment{kind: segSYN, flow: f, inc: g.inc})
			n.serve(n.w.between(20*millis, 40*millis), dial)
		}
	}
	dial()
	if !g.spliced {
		n.retransmitLater(g)
	}
}

// data takes what continues the stream, tells the core, passes it on.
func (n *node) data(g *gwConn, s replication.Stream, seg segment) {
	st := &g.s[s]
	end := seg.off + uint64(len(seg.data))
	if seg.off <= st.rcv && !st.fin && (end > st.rcv || (seg.fin && end == st.rcv)) &&
		end-st.una <= n.w.plan.buffer {
		fresh := seg.data[st.rcv-seg.off:]
		from := st.rcv
		st.buf = append(st.buf, fresh...)
		st.rcv = end
		if seg.fin {
			st.fin = true
			st.rcv++
		}
		if s == replication.Request {
			n.call("data", n.sh.Data(n.now(), g.id, s, from, [][]byte{fresh}, seg.fin))
		} else {
			n.call("received", n.sh.Received(n.now(), g.id, s, st.rcv, seg.fin))
		}
		n.advance(g, s) // the receiver may have acknowledged it before, to another appliance
		n.maintain(g)
		if n.w.chance(0.3) { // verified and released later
			n.serve(n.w.between(0, millis), func() { n.forward(g, s, max(from, st.una)) })
		} else {
			n.forward(g, s, max(from, st.una))
		}
	}
	n.ack(g, s)
}

// delivered takes the receiver's ACK of stream s.
func (n *node) delivered(g *gwConn, s replication.Stream, ack uint64) {
	st := &g.s[s]
	if ack > st.acked {
		if ack > st.rcv {
			n.w.seen.PeerAhead++
		}
		st.acked = ack
		n.advance(g, s)
	}
}

// advance lets go of what the receiver has.
func (n *node) advance(g *gwConn, s replication.Stream) {
	st := &g.s[s]
	una := min(st.acked, st.rcv)
	if una == st.una {
		return
	}
	if s == replication.Response && g.log != nil && !g.finished {
		n.release(g) // who has heard the former active may be ahead of what this one has sent
	}
	st.buf = st.buf[min(una-st.una, uint64(len(st.buf))):]
	st.una = una
	if !g.finished {
		n.call("delivered", n.sh.Delivered(n.now(), g.id, s, una))
	}
}

// forward sends a stream's bytes from an offset on to its receiver.
func (n *node) forward(g *gwConn, s replication.Stream, from uint64) {
	st := &g.s[s]
	if !g.opened || g.gone || n.silent() {
		return // invariant 3, and the client's side is not open, or was reset
	}
	if g.legWaits {
		return // invariant 3, for another leg
	}
	if s == replication.Response {
		n.release(g)
	}
	dataEnd := st.una + uint64(len(st.buf))
	for from < st.rcv {
		size := min(dataEnd-min(from, dataEnd), maxSegment)
		seg := segment{kind: segData, flow: g.f, inc: g.inc, off: from, hasData: true}
		seg.data = append(seg.data, st.buf[from-st.una:from-st.una+size]...)
		from += size
		if st.fin && from == dataEnd {
			seg.fin = true
			from++
		}
		n.w.observeForward(n, g, s)
		n.send(s == replication.Response, g, seg)
	}
}

// ack tells the sender of s how far it is received, as far as the gate lets us.
func (n *node) ack(g *gwConn, s replication.Stream) {
	st := &g.s[s]
	if !g.dialled || g.gone || g.spliced || (s == replication.Request && !g.opened) {
		return
	}
	off := st.rcv
	if !g.unprotected {
		off = min(off, st.gate)
	}
	if n.silent() {
		return
	}
	n.w.observeAck(n, g, s, off)
	n.send(s == replication.Request, g, segment{kind: segData, flow: g.f, inc: g.inc, ack: off, hasAck: true})
}

func (n *node) synAck(g *gwConn) {
	if g.gone || n.silent() {
		return
	}
	n.w.observeSynAck(n, g)
	n.send(true, g, segment{kind: segSYNACK, flow: g.f})
}

func (n *node) toServer(g *gwConn, seg segment) { n.send(false, g, seg) }

func (n *node) send(client bool, g *gwConn, seg segment) {
	if n.silent() {
		return
	}
	switch {
	case n.w.duo != nil:
		n.w.observeAlone(n, g)
		if n.w.unplugged[n.id] > 0 {
			return
		}
	case n.shell != nil:
		n.w.observeRelease(n, g)
	}
	n.w.toHost(client, seg)
}

// finish ends a connection both of whose FINs are acknowledged.
func (n *node) finish(g *gwConn) {
	for i := range g.s {
		if st := &g.s[i]; !st.fin || st.una != st.rcv {
			return
		}
	}
	n.release(g)
	if !g.finished {
		g.finished = true
		n.w.logf("%s: flow %d finished", n.name, g.f.n)
		n.call("close", n.sh.Close(n.now(), g.id, replication.Finished))
	}
}

// retransmit sends both streams' oldest bytes again while they are not acknowledged.
func (n *node) retransmit(g *gwConn) {
	if g.gone || g.f.lost || (g.finished && g.f.done()) {
		return
	}
	for s := range g.s {
		if st := &g.s[s]; st.una < st.rcv {
			n.forward(g, replication.Stream(s), st.una)
		}
	}
	n.retransmitLater(g)
}

func (n *node) retransmitLater(g *gwConn) {
	n.serve(n.w.between(20*millis, 50*millis), func() { n.retransmit(g) })
}
