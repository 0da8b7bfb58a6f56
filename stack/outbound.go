package stack

import (
	"math"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// output takes a segment from netstack on its way to the wire.
func (l *Leg) output(pkt *stack.PacketBuffer) {
	tcp := header.TCP(pkt.TransportHeader().Slice())
	payload := pkt.Data().Size()

	l.outMu.Lock()
	defer l.outMu.Unlock()

	l.mu.Lock()
	var emit, changed, urgent bool
	var trim int
	var inject func()
	switch l.state {
	case stDialing:
		l.learnOurSYN(tcp)
		emit = true
	case stBuilding:
		inject = l.privateHandshake(tcp)
		l.engine.C.drop(DropOwnHandshake)
	case stParked:
		l.engine.C.drop(DropOwnHandshake) // the end of the endpoint, not of the connection
	case stAttached:
		if l.halfWay && l.keepBack(tcp, payload) {
			l.engine.C.drop(DropOwnHandshake)
			break
		}
		var known uint64
		emit, changed, known, trim = l.translateOut(tcp, payload)
		urgent = emit && l.urgent(tcp)
		if b := l.withSACK(tcp); emit && known == 0 && payload == 0 && b != nil {
			inject, emit = func() { l.engine.emitMade(b) }, false
		}
		if known > 0 {
			inject = l.acknowledgeKnown(known, tcp, emit)
			emit = false
		}
	default:
		l.engine.C.drop(DropDetached)
	}
	if trim > 0 {
		trimFront(pkt, trim)
		changed = true
	}
	if emit {
		l.keepHead(pkt, tcp, payload-trim)
	}
	piece, fragment := l.pieceSize(pkt.HeaderSize()), l.fragment
	l.mu.Unlock()

	if inject != nil {
		inject()
	}
	if !emit {
		return
	}
	l.setClass(pkt)
	if (changed || urgent) && !(pkt.GSOOptions.Type != stack.GSONone && pkt.GSOOptions.NeedsCsum) {
		// Rare: everything but SYNs leaves with a partial checksum, which does
		// not cover the TCP header's fields.
		rewriteChecksum(pkt, tcp)
	}
	if fragment {
		l.engine.mayFragment(pkt, piece)
	}
	if mss := l.pieceOf(pkt, piece); urgent && pkt.Data().Size() > mss {
		l.engine.emitPieces(pkt, mss)
		return
	}
	l.engine.emit(pkt, piece)
}

// pieceOf is how much payload a segment of a packet carries, at most.
func (l *Leg) pieceOf(pkt *stack.PacketBuffer, piece uint16) int {
	mss := int(pkt.GSOOptions.MSS)
	if piece > 0 {
		mss = min(mss, int(piece))
	}
	if mss == 0 {
		return pkt.Data().Size()
	}
	return mss
}

// learnOurSYN notes what netstack offers when it dials.
func (l *Leg) learnOurSYN(tcp header.TCP) {
	if tcp.Flags()&header.TCPFlagSyn == 0 {
		return
	}
	l.p.ISS = tcp.SequenceNumber()
	l.p.OurWS = -1
	walkOptions(tcp[header.TCPMinimumSize:tcp.DataOffset()], func(kind byte, o []byte) {
		switch kind {
		case header.TCPOptionMSS:
			l.p.OurMSS = uint16(o[2])<<8 | uint16(o[3])
		case header.TCPOptionWS:
			l.p.OurWS = int8(o[2])
		case header.TCPOptionTS:
			l.p.TSOffset = be32(o[2:]) - l.engine.ClockMillis()
		}
	})
}

// translateOut turns a segment of the attached endpoint into wire numbers and
// applies the gate ("the one rule"). It reports whether the segment leaves and
// whether its header was changed. known > 0: the peer has had everything below
// known all along; the segment does not leave, it is to be acknowledged here. trim:
// the peer has that many bytes of the payload's front, they do not leave.
func (l *Leg) translateOut(tcp header.TCP, payload int) (emit, changed bool, known uint64, trim int) {
	flags := tcp.Flags()
	opts := []byte(tcp[header.TCPMinimumSize:tcp.DataOffset()])
	ts, sack, ok := locateOptions(opts)
	if !ok {
		l.engine.C.drop(DropOptions) // netstack does not do that
		return false, false, 0, 0
	}

	if l.seqDelta != 0 {
		tcp.SetSequenceNumber(tcp.SequenceNumber() + l.seqDelta)
		changed = true
	}
	if ts >= 0 && l.stampOut(opts[ts:]) {
		changed = true
	}
	if flags&header.TCPFlagRst == 0 {
		end := uint32(payload)
		if flags&header.TCPFlagFin != 0 {
			end++
		}
		if off, ok := l.txOffset(tcp.SequenceNumber() + end); ok {
			l.leaves(off, payload)
			if flags&header.TCPFlagFin != 0 {
				l.txFin = off
			}
			// What the peer has already, or from below its window, it would
			// discard unread, the ACK with it. netstack's zero-window probe,
			// one byte below SND.UNA, is neither: it passes as it is.
			switch {
			case end > 0 && off <= l.peerAck && off >= l.txUna+uint64(end):
				known = off
				tcp.SetSequenceNumber(l.txSeq(l.peerAck))
				changed = true
			case off > l.peerAck && l.peerAck+uint64(end) > off:
				// No sender goes below SND.UNA, so some receivers do not bear it.
				trim = min(payload, int(l.peerAck+uint64(end)-off))
				tcp.SetSequenceNumber(tcp.SequenceNumber() + uint32(trim))
				payload -= trim
				changed = true
			case end == 0 && off < l.peerAck:
				tcp.SetSequenceNumber(l.txSeq(l.peerAck))
				changed = true
			}
		}
	}
	if l.quiet && payload == 0 { // data may leave before netstack has taken attached's segment
		l.quiet = false
		if ack, ok := l.rxOffset(tcp.AckNumber()); ok && payload == 0 && flags == header.TCPFlagAck && ack <= l.rxAcked {
			l.engine.C.drop(DropOwnHandshake) // the answer to attached's segment, no news
			return false, changed, 0, 0
		}
	}
	if flags&header.TCPFlagRst != 0 {
		// A peer believes a RST only from exactly where it is (RFC 5961, 3.2).
		if off, ok := l.txOffset(tcp.SequenceNumber()); ok && off < l.peerAck {
			tcp.SetSequenceNumber(l.txSeq(l.peerAck))
			changed = true
		}
	}
	acked, edge := l.rxAcked, l.rxEdge
	emit, changed2 := l.gateOut(tcp, opts, ts, sack, payload)
	if known > 0 {
		// Only an acknowledgement in it can matter; that leaves by itself.
		emit = emit && (l.rxAcked > acked || l.rxEdge > edge)
	}
	return emit, changed || changed2, known, trim
}

// stampOut makes the timestamps option o the wire's, and reports whether that changed it.
func (l *Leg) stampOut(o []byte) (changed bool) {
	now, stamp := l.tsNow(), be32(o[2:])
	if d := now - stamp; int32(d-l.tsDelta) < 0 {
		l.tsDelta = d
	}
	if now != stamp {
		put32(o[2:], now)
		changed = true
	}
	ecr := be32(o[6:])
	if l.restored && ecr == l.staleTS {
		put32(o[6:], l.echo())
		changed = true
	} else if e := l.lateEcho(l.stampOfFirst(ecr)); e != ecr {
		put32(o[6:], e)
		changed = true
	}
	return changed
}

// gateOut applies the gate to a segment that is otherwise in wire numbers.
func (l *Leg) gateOut(tcp header.TCP, opts []byte, ts, sack, payload int) (emit, changed bool) {
	flags := tcp.Flags()
	if flags&header.TCPFlagAck == 0 {
		return true, false
	}
	ack, ok := l.rxOffset(tcp.AckNumber())
	if !ok {
		return true, false
	}
	pure := payload == 0 && flags&(header.TCPFlagFin|header.TCPFlagSyn|header.TCPFlagRst) == 0
	l.hears(l.rxNxt, ack, pure)
	if sack >= 0 {
		l.sackSaid(opts[sack : sack+int(opts[sack+1])])
	}
	l.received(ack)
	wants := ack + uint64(tcp.WindowSize())<<l.stackWS
	l.rxWants = max(l.rxWants, wants)
	if ack < l.rxAcked && l.restored && flags&header.TCPFlagRst == 0 {
		// The endpoint has not yet taken the FIN that is held and acknowledged.
		ack, changed = l.rxAcked, true
		tcp.SetAckNumber(l.rxSeq(ack))
	}
	edge := l.edge(ack, wants)
	if ack <= max(l.gate(), l.rxAcked) {
		if pure && l.mayDelay(ack, sack >= 0) {
			l.owe(ack, wants, opts, ts, sack)
			l.holdBack()
			return false, changed
		}
		if flags&header.TCPFlagRst == 0 {
			l.owed.set = false
			if w := l.windowTo(ack, edge); w != tcp.WindowSize() {
				tcp.SetWindowSize(w)
				changed = true
			}
			l.left(ack, edge)
		}
		return true, changed
	}

	// The gate is in the way: lower the ACK, keep the right edge where netstack
	// put it (the peer must not see it shrink, RFC 9293 3.8.6), and remember
	// that the rest is owed.
	low := max(l.gate(), l.rxAcked)
	if flags&header.TCPFlagRst == 0 {
		l.owe(ack, wants, opts, ts, sack)
		if pure && low <= l.rxAcked && min(edge, low+0xffff<<l.ws) <= l.rxEdge {
			// It would tell the peer nothing but look like a duplicate ACK,
			// which a sender counts as a sign of loss (RFC 5681, 3.2).
			l.engine.C.AcksHeld.Add(1)
			return false, changed
		}
	}
	l.engine.C.AcksLower.Add(1)
	tcp.SetAckNumber(l.rxSeq(low))
	tcp.SetWindowSize(l.windowTo(low, edge))
	l.left(low, edge)
	return true, true
}

// acknowledgeKnown tells netstack, in the peer's name, that the peer has
// everything below off, and the relay that it is delivered. If ackNews, the
// acknowledgement in the unsent segment's header leaves on its own.
func (l *Leg) acknowledgeKnown(off uint64, tcp header.TCP, ackNews bool) func() {
	var own []byte
	if ackNews {
		own = l.build(made{
			flags: header.TCPFlagAck, seq: tcp.SequenceNumber(), ack: tcp.AckNumber(),
			window: tcp.WindowSize(), opts: tcp[header.TCPMinimumSize:tcp.DataOffset()],
		})
	}
	var ts []byte
	if l.p.TS {
		ts = tsOption(make([]byte, 12), l.p.PeerTS, 0)
	}
	b := l.flow.build(make([]byte, maxMade), l.v6, true, made{
		flags: header.TCPFlagAck, seq: l.rxSeq(l.rxNxt), ack: l.txSeq(off) - l.seqDelta, window: l.peerWindow(off), opts: ts,
	})
	l.txUna = max(l.txUna, off)
	una := l.txUna
	l.engine.C.Known.Add(1)
	owed := l.payOwed() // of a FIN, see gate
	return func() {
		for _, b := range [][]byte{own, owed} {
			if b != nil {
				l.engine.emitMade(b)
			}
		}
		l.engine.inject(b, l.v6)
		l.events.Delivered(l, una)
	}
}

// edge is the right edge that may be announced when netstack acknowledges ack and
// wants its window to end at wants. The endpoint's buffer has slack (windowSlack);
// what is announced has none, counted from what the standby knows: so a rebuilt
// endpoint, which starts there, can announce as much.
func (l *Leg) edge(ack, wants uint64) uint64 {
	wants = min(wants, l.permitted(ack)+l.engine.window, l.edgeLimit())
	if l.drain.on {
		wants = min(wants, max(l.drain.edge, l.rxEdge))
	}
	return wants
}

// edgeLimit keeps a peer whose bytes nobody reads from getting a fresh window with
// each takeover: a rebuilt endpoint's queue is empty, but what the former active's
// held is still to be delivered. Up to one window of it does not count: then the edge
// is where the former active may have announced it.
func (l *Leg) edgeLimit() uint64 {
	if l.rxAhead == 0 {
		return math.MaxUint64
	}
	return l.rxFreed - l.rxAhead + 2*l.engine.window + windowSlack
}

// SetAhead tells that no more than n bytes wait before the receive queue. A window
// that they had closed opens again.
func (l *Leg) SetAhead(n uint64) {
	l.outMu.Lock()
	defer l.outMu.Unlock()
	l.mu.Lock()
	if n >= l.rxAhead {
		l.mu.Unlock()
		return
	}
	limited := l.rxWants > l.edgeLimit()
	l.rxAhead = n
	var b []byte
	edge := l.edge(l.rxNxt, l.rxWants)
	// Not for every few bytes (silly window avoidance, RFC 9293, 3.8.6.2.2).
	if limited && l.state == stAttached && edge > l.rxEdge && (n == 0 || edge >= l.rxEdge+l.engine.window/4) {
		b = l.ackTo(edge, nil)
	}
	l.mu.Unlock()
	if b != nil {
		l.engine.emitMade(b)
	}
}

// permitted is how much of an acknowledgement the gate lets through: never less than
// has left already.
func (l *Leg) permitted(ack uint64) uint64 { return max(min(ack, l.gate()), l.rxAcked) }

// gate is the offset below which everything may be acknowledged.
//
// The ACK of its FIN is what lets a peer forget the connection. One that has more of
// our stream than this endpoint has sent again is still needed: nobody else can say
// how far it got, and once closed it would answer the repetition with a RST. So its
// FIN waits, with or without a standby, until the repetition has caught up with it.
func (l *Leg) gate() uint64 {
	n := l.permit
	if l.gateOpen {
		n = math.MaxUint64
	}
	if l.restored && l.peerAck > l.txUna && l.rxFin > 0 {
		n = min(n, l.rxFin-1)
	}
	if l.withholds() {
		n = min(n, l.rxAcked)
	}
	return n
}

// windowTo is the window field that announces edge from ack on, or again what was
// announced before if that is more (RFC 9293, 3.8.6: the right edge should not move
// back; netstack takes what begins inside the window that it once announced). A
// field cannot express every edge (RFC 7323, 2.4). It is rounded up where rounding
// down would take back what was announced, but never more than a unit beyond edge,
// or a window that is acknowledged byte by byte would never close; and saturated.
func (l *Leg) windowTo(ack, edge uint64) uint16 {
	target := max(edge, l.rxEdge)
	if target <= ack {
		return 0
	}
	w := (target - ack) >> l.ws
	if up := (w + 1) << l.ws; ack+w<<l.ws < l.rxEdge && ack+up <= max(edge+1<<l.ws, l.rxEdge) {
		w++
	}
	return uint16(min(w, 0xffff))
}

// left notes an acknowledgement and a window that go on the wire now.
func (l *Leg) left(ack, edge uint64) {
	if ack > l.rxAcked {
		l.rxAcked, l.delay.stamped, l.delay.came = ack, false, 0
	}
	l.rxEdge = max(l.rxEdge, ack+uint64(l.windowTo(ack, edge))<<l.ws)
}

// Permit moves the gate: ACKs may cover everything below off. If one is owed it
// leaves now, unless an answer is expected to carry it.
func (l *Leg) Permit(off uint64) {
	l.outMu.Lock()
	defer l.outMu.Unlock()
	l.widen()
	l.mu.Lock()
	if off <= l.permit {
		l.mu.Unlock()
		return
	}
	l.permit = off
	var b []byte
	if l.owed.set && l.mayDelay(l.owed.ack, l.owed.sackN > 0) {
		l.holdBack()
	} else {
		b = l.payOwed()
	}
	l.mu.Unlock()
	if b != nil {
		l.engine.emitMade(b)
	}
}

// CloseGate puts a gate where none was, or only the receiver's own word, at what has been acknowledged so far, and
// returns that: nothing that was said is taken back, nothing more is said before
// Permit. All bytes below it have arrived; those that were not discarded are in the
// receive queue. fin: the last that is acknowledged is the peer's FIN, which may show
// in the receive queue a moment later.
func (l *Leg) CloseGate() (acked uint64, fin bool) {
	l.outMu.Lock() // what netstack is about to acknowledge has left, or meets the gate
	defer l.outMu.Unlock()
	l.endDelayNow()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gateOpen || l.drain.on {
		l.gateOpen, l.drain.closed = false, l.drain.on
		l.permit = l.rxAcked
	}
	return l.rxAcked, l.finHeld || (l.rxFin > 0 && l.rxAcked >= l.rxFin)
}

// Open takes the gate away: nobody is waited for from now on.
func (l *Leg) Open() {
	l.outMu.Lock()
	defer l.outMu.Unlock()
	l.widen()
	l.mu.Lock()
	if l.gateOpen {
		l.mu.Unlock()
		return
	}
	l.gateOpen = true
	b := l.payOwed()
	l.mu.Unlock()
	if b != nil {
		l.engine.emitMade(b)
	}
}

// ackOptions appends the options of an ACK made by the wrap.
func (l *Leg) ackOptions(tsEcr uint32, sack []byte) []byte {
	b := make([]byte, 0, header.TCPOptionsMaximumSize)
	if l.p.TS {
		b = tsOption(b[:header.TCPOptionsMaximumSize], l.tsNow(), tsEcr)
	}
	if len(sack) > 0 && len(b)+2+len(sack) <= header.TCPOptionsMaximumSize {
		b = append(b, header.TCPOptionNOP, header.TCPOptionNOP)
		b = append(b, sack...)
	}
	for len(b)%4 != 0 {
		b = append(b, header.TCPOptionNOP)
	}
	return b
}

// trimFront takes n bytes off the front of a segment's payload.
func trimFront(pkt *stack.PacketBuffer, n int) {
	pkt.Data().TrimFront(n)
	tcp := header.TCP(pkt.TransportHeader().Slice())
	size := uint16(len(tcp) + pkt.Data().Size())
	switch net := pkt.Network().(type) {
	case header.IPv4:
		net.SetTotalLength(uint16(net.HeaderLength()) + size)
		net.SetChecksum(0)
		net.SetChecksum(^net.CalculateChecksum())
	case header.IPv6:
		net.SetPayloadLength(size)
	}
	// CHECKSUM_PARTIAL: the sum of the pseudo-header, the kernel adds the rest.
	net := pkt.Network()
	tcp.SetChecksum(header.PseudoHeaderChecksum(header.TCPProtocolNumber, net.SourceAddress(), net.DestinationAddress(), size))
}

// rewriteChecksum computes a whole TCP checksum after a header change.
func rewriteChecksum(pkt *stack.PacketBuffer, tcp header.TCP) {
	tcp.SetChecksum(0)
	src, dst := pkt.Network().SourceAddress(), pkt.Network().DestinationAddress()
	x := header.PseudoHeaderChecksum(header.TCPProtocolNumber, src, dst, uint16(len(tcp)+pkt.Data().Size()))
	x = checksum.Combine(x, pkt.Data().Checksum())
	tcp.SetChecksum(^tcp.CalculateChecksum(x))
}
