package sim

import "lockstep/replication"

// segment is a packet between a host and the gateway. Stream offsets stand for
// sequence numbers; the FIN is one byte.
type segment struct {
	kind    segKind
	flow    *flow
	inc     uint32 // which of the server's connections for this flow
	off     uint64 // of data[0]
	data    []byte
	fin     bool
	hasData bool
	ack     uint64
	hasAck  bool
}

type segKind uint8

const (
	segData segKind = iota
	segSYN
	segSYNACK
	segRST
	segProbe // the gateway asks whether a connection is there
)

// flow is one connection as its two ends see it.
type flow struct {
	w              *world
	n              int
	client, server *endpoint
	inc            uint32 // the newest number given to a server's connection
	// lost: the connection was not protected when its appliance died. It is reset,
	// never continued; nothing more is demanded of it.
	lost    bool
	aborted bool // the client gave up
	// acked is the highest ACK that any appliance has released, per stream.
	acked [2]uint64
	// synAcked: a SYN-ACK has been released to the client.
	synAcked     bool
	mayBeSpliced bool // its service passes on what it may
}

// endpoint is a host's end.
type endpoint struct {
	f           *flow
	isClient    bool
	established bool
	inc         uint32 // server
	total       uint64 // bytes it will send; the FIN is at this offset
	una, max    uint64 // acknowledged; highest ever sent
	rcv         uint64 // next expected
	rcvFin      bool
	peerTotal   uint64
	pausedUntil nanos // does not read before
	finAfter    nanos // does not send its FIN before
	dead        bool
}

const (
	maxSegment = 500
	hostWindow = 3000 // bytes in flight
)

// pattern is the byte at an offset of a flow's stream: any loss, repetition or
// mix-up shows.
func pattern(flow int, s replication.Stream, off uint64) byte {
	x := off*0x9E3779B97F4A7C15 + uint64(flow)<<32 + uint64(s)<<60
	x ^= x >> 29
	x *= 0xBF58476D1CE4E5B9
	return byte(x >> 56)
}

func newFlow(w *world, n int) *flow {
	f := &flow{w: w, n: n, mayBeSpliced: w.mayBeSpliced()}
	size := func() uint64 {
		switch w.rng.IntN(4) {
		case 0:
			return 0
		case 1:
			return uint64(w.rng.IntN(300))
		default:
			return uint64(w.rng.IntN(9000))
		}
	}
	req, resp := size(), size()
	f.client = &endpoint{f: f, isClient: true, total: req, peerTotal: resp}
	f.server = f.newServer(0, resp, req)
	if w.chance(0.4) {
		f.client.pausedUntil = w.between(30*millis, 100*millis+w.plan.span)
	}
	if w.chance(0.2) {
		f.server.pausedUntil = w.between(30*millis, w.plan.span)
	}
	if w.chance(0.4) {
		f.client.finAfter = w.between(0, w.plan.span)
	}
	if w.chance(0.4) {
		f.server.finAfter = w.between(0, w.plan.span)
	}
	w.after(w.between(0, w.plan.span/2), f.client.timer)
	if w.chance(0.1) {
		w.after(w.between(20*millis, w.plan.span), f.abort)
	}
	return f
}

func (f *flow) newServer(inc uint32, total, peerTotal uint64) *endpoint {
	return &endpoint{f: f, inc: inc, total: total, peerTotal: peerTotal}
}

func (f *flow) abort() {
	if f.done() || f.lost || f.aborted {
		return
	}
	f.aborted = true
	f.client.dead = true
	f.w.logf("flow %d: client resets", f.n)
	f.w.seen.Aborted++
	f.w.toGateway(f.client, segment{kind: segRST, flow: f})
}

// done: both ends have everything and know that the other has.
func (f *flow) done() bool { return f.client.finished() && f.server.finished() }

func (e *endpoint) finished() bool { return e.una == e.total+1 && e.rcv == e.peerTotal+1 }

func (e *endpoint) sends() replication.Stream {
	if e.isClient {
		return replication.Request
	}
	return replication.Response
}

func (e *endpoint) name() string {
	if e.isClient {
		return "client"
	}
	return "server"
}

// timer is the endpoint's retransmission timer; it never stops for long.
func (e *endpoint) timer() {
	f := e.f
	if e.dead || f.lost || (!e.isClient && f.server != e) || e.finished() {
		return
	}
	if e.isClient && !e.established {
		f.w.toGateway(e, segment{kind: segSYN, flow: f})
	} else {
		e.transmit(e.una)
	}
	f.w.after(f.w.between(20*millis, 60*millis), e.timer)
}

// transmit sends what the window allows from an offset on, at least an ACK.
func (e *endpoint) transmit(from uint64) {
	w, s := e.f.w, e.sends()
	end := min(e.una+hostWindow, e.total)
	sent := false
	for from <= e.total {
		n := min(end-min(from, end), maxSegment)
		seg := segment{kind: segData, flow: e.f, inc: e.inc, off: from, ack: e.rcv, hasAck: true, hasData: true}
		for i := range n {
			seg.data = append(seg.data, pattern(e.f.n, s, from+i))
		}
		from += n
		seg.fin = from == e.total && w.now >= e.finAfter
		if n == 0 && !seg.fin {
			break
		}
		e.max = max(e.max, from)
		if seg.fin {
			e.max = e.total + 1
			from++
		}
		w.toGateway(e, seg)
		sent = true
	}
	if !sent {
		w.toGateway(e, segment{kind: segData, flow: e.f, inc: e.inc, ack: e.rcv, hasAck: true})
	}
}

// receive takes a segment from the gateway.
func (e *endpoint) receive(seg segment) {
	f, w := e.f, e.f.w
	if e.dead || f.lost {
		return
	}
	switch seg.kind {
	case segSYNACK:
		if !e.established {
			e.established = true
			w.logf("flow %d established", f.n)
		}
		e.transmit(e.una)
		return
	case segRST:
		e.dead = true
		return
	case segProbe:
		answer := segment{kind: segData, flow: f, inc: e.inc, ack: e.rcv, hasAck: true}
		if f.done() {
			answer = segment{kind: segRST, flow: f, inc: e.inc} // both have forgotten it
		}
		w.toGateway(e, answer)
		return
	}
	if !e.established {
		return // its SYN-ACK was lost or overtaken (RFC 9293, 3.10.7.3: dropped)
	}
	if seg.hasAck {
		if seg.ack > e.max {
			w.failf("flow %d: %s sent %d, is told that %d was received", f.n, e.name(), e.max, seg.ack)
		}
		if seg.ack > e.una {
			e.una = seg.ack
			if e.una <= e.total {
				e.transmit(max(e.una, min(e.max, e.total)))
			}
		}
	}
	if seg.hasData {
		e.accept(seg)
		w.toGateway(e, segment{kind: segData, flow: f, inc: e.inc, ack: e.rcv, hasAck: true})
	}
}

// accept takes what continues the stream, and compares it.
func (e *endpoint) accept(seg segment) {
	w := e.f.w
	if w.now < e.pausedUntil || seg.off > e.rcv {
		return // a full window, or a gap
	}
	s := 1 - e.sends()
	for i, b := range seg.data {
		off := seg.off + uint64(i)
		if off >= e.peerTotal || b != pattern(e.f.n, s, off) {
			w.failf("flow %d: %v byte %d is wrong at its receiver", e.f.n, s, off)
			return
		}
		if off == e.rcv {
			e.rcv++
		}
	}
	end := seg.off + uint64(len(seg.data))
	if seg.fin {
		if end != e.peerTotal {
			w.failf("flow %d: %v ends at %d, not at %d", e.f.n, s, end, e.peerTotal)
			return
		}
		if e.rcv == end {
			e.rcv++
			e.rcvFin = true
		}
	}
}

// toGateway sends over the lossy network to whoever holds the virtual address when
// it arrives.
func (w *world) toGateway(e *endpoint, seg segment) {
	w.overNetwork(func() {
		if n := w.vip; n != nil && (w.duo == nil || w.unplugged[n.id] == 0) {
			n.run(n.life, func() {
				if n.silent() || n.core.Role() != replication.RoleActive {
					return // as the engine does
				}
				n.receive(e.isClient, seg)
				n.pump()
			})
		}
	})
}

// toHost sends to a client or a server.
func (w *world) toHost(client bool, seg segment) {
	f := seg.flow
	w.overNetwork(func() {
		switch {
		case client:
			f.client.receive(seg)
		case seg.kind == segSYN:
			f.accept(seg.inc)
		case f.server.inc == seg.inc && f.server.established:
			f.server.receive(seg)
		}
	})
}

// accept opens the server's end, or answers a repeated SYN. A new SYN means that
// the connection before was forgotten by the gateway, before the client had any
// part in it: nothing may have been said on it that counts.
func (f *flow) accept(inc uint32) {
	w := f.w
	old := f.server
	if inc < old.inc || f.lost {
		return
	}
	if inc > old.inc {
		if w.duo != nil && w.excused() && (old.rcv > 0 || old.una > 0) {
			w.loseFlow(f) // two that have gone on have both got its SYN
			return
		}
		if old.rcv > 0 || old.una > 0 {
			w.failf("flow %d: connection %d to the server, %d bytes in and %d bytes acknowledged, is replaced", f.n, old.inc, old.rcv, old.una)
		}
		old.dead = true
		s := f.newServer(inc, old.total, old.peerTotal)
		s.pausedUntil, s.finAfter = old.pausedUntil, old.finAfter
		s.established = true
		f.server = s
		w.after(w.between(0, 20*millis), s.timer)
	}
	w.toGateway(f.server, segment{kind: segSYNACK, flow: f, inc: inc})
}

func (w *world) overNetwork(deliver func()) {
	if w.chance(w.plan.loss) {
		return
	}
	d := w.plan.hostDelay
	w.after(w.between(d, d+d/2), deliver)
	if w.chance(w.plan.dup) {
		w.after(w.between(d, 3*d), deliver)
	}
}
