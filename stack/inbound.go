package stack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// verdict says what becomes of an inbound segment.
type verdict uint8

const (
	vDrop    verdict = iota // counted by whoever says so
	vDeliver                // to netstack, translated
	vQueued                 // kept with the leg (which took a reference)
	vSYN                    // the flow is free for this SYN: treat it as new
)

// input takes a segment from the peer. It changes the header in place into stack
// numbers; no checksum is touched, since it was checked before and netstack is
// told so.
//
// outHeld: the caller holds outMu already (replay).
func (l *Leg) input(s *segment, pkt *stack.PacketBuffer, outHeld bool) verdict {
	l.mu.Lock()
	before := max(l.txUna, l.peerAck)
	var wake bool
	var reply answer
	v := vDrop
	switch l.state {
	case stSynReceived, stSynAcked:
		v, wake, reply = l.inputHalfOpen(s, pkt)
	case stDialing:
		v = l.inputDialing(s)
	case stWaiting, stBuilding:
		if outHeld {
			v, reply = l.inputEndpoint(s, pkt) // replayed by attached
		} else {
			v, wake = l.inputWaiting(s, pkt)
		}
	case stParked:
		v, wake, reply = l.inputParked(s, pkt)
	case stAttached:
		if l.err != nil {
			v, reply = l.inputReset(s) // what it had received is still being passed on
		} else {
			v, reply = l.inputEndpoint(s, pkt)
		}
	case stTombstone:
		v, reply = l.inputTombstone(s)
	case stReset:
		v, reply = l.inputReset(s)
	default:
		l.engine.C.drop(DropDetached)
	}
	una := max(l.txUna, l.peerAck)
	l.headAcked()
	l.mu.Unlock()

	if reply != nil {
		l.reply(reply, outHeld)
	}
	if una > before {
		l.events.Delivered(l, una)
	}
	if wake {
		l.events.Wake(l)
	}
	return v
}

// inputEndpoint takes a segment for the endpoint.
func (l *Leg) inputEndpoint(s *segment, pkt *stack.PacketBuffer) (v verdict, reply answer) {
	if v, reply = l.inputAttached(s); v == vDeliver {
		asks, news := l.asks(s), !l.noNews(s)
		if v, reply = l.translateIn(s); asks && v == vDeliver && reply == nil {
			l.asked.Store(true)
			defer l.events.Wake(l)
			return vDrop, nil
		}
		if news {
			l.rxCame = time.Duration(l.engine.tick.Load())
		}
	}
	// A peer may repeat its last segment as it first sent it, though all but the FIN is
	// acknowledged (lwIP keeps whole segments). netstack takes a FIN only along with
	// bytes that it needs, or alone.
	if s.payload > 0 && s.tcp.Flags()&(header.TCPFlagFin|header.TCPFlagSyn|header.TCPFlagRst) == header.TCPFlagFin {
		if end, ok := l.rxOffset(s.tcp.SequenceNumber() + uint32(s.payload)); ok && end == l.rxNxt && v == vDeliver {
			s.dropPayload(pkt)
		}
	}
	return v, reply
}

// answer makes the wrap's own reply to a segment. It runs with outMu and mu held,
// after the segment was dealt with: TSval and ACK must be taken in the order in
// which packets leave.
type answer func() []byte

func (l *Leg) reply(a answer, outHeld bool) {
	if !outHeld {
		l.outMu.Lock()
		defer l.outMu.Unlock()
	}
	l.mu.Lock()
	first := l.reviving()
	b := a()
	l.mu.Unlock()
	for _, p := range first {
		l.engine.emitMade(p)
	}
	if b != nil {
		l.engine.emitMade(b)
	}
}

// inputDialing looks for the SYN-ACK, which completes what must be known of the
// leg. Everything else is netstack's business (RST: refused; challenge ACK: an
// old connection of the same addresses, which netstack resets, RFC 5961).
func (l *Leg) inputDialing(s *segment) verdict {
	const synAck = header.TCPFlagSyn | header.TCPFlagAck
	if f := s.tcp.Flags(); f&synAck != synAck || f&header.TCPFlagRst != 0 || s.tcp.AckNumber() != l.p.ISS+1 {
		return vDeliver
	}
	if !l.p.readSYN(s) {
		l.engine.C.drop(DropOptions)
		return vDrop
	}
	if l.p.PeerWS >= 0 && l.p.OurWS >= 0 {
		l.stackWS, l.ws = uint8(l.p.OurWS), uint8(l.p.OurWS)
	} else {
		l.p.PeerWS, l.p.OurWS = -1, -1
	}
	l.tsKnown, l.tsAt, l.peerWndMax = true, l.engine.now(), s.tcp.WindowSize()
	l.peerEdge, l.peerTold = uint64(l.peerWndMax), true // a SYN's is not scaled (RFC 7323, 2.2)
	if l.p.TS {
		l.p.RTTMicros = (l.engine.ClockMillis() - (s.tsEcr() + 0 - l.p.TSOffset)) * 1000
	}
	l.confirmed = true
	l.state = stAttached
	return vDeliver
}

// tsEcr returns the echoed timestamp of a segment known to be well formed.
func (s *segment) tsEcr() uint32 {
	ts, _, ok := locateOptions(s.tcp[header.TCPMinimumSize:])
	if !ok || ts < 0 {
		return 0
	}
	return be32(s.tcp[header.TCPMinimumSize+ts+6:])
}

// inputWaiting keeps segments until the endpoint is there.
func (l *Leg) inputWaiting(s *segment, pkt *stack.PacketBuffer) (v verdict, wake bool) {
	if s.tcp.Flags()&header.TCPFlagSyn != 0 && l.state == stWaiting && !l.again() {
		return vDrop, false // the client repeats a SYN that is answered already
	}
	if s.tcp.Flags()&header.TCPFlagRst != 0 && l.state == stWaiting && !l.again() && s.tcp.SequenceNumber() == l.rxSeq(l.rxNxt) {
		l.err = ErrReset // while its server is dialled: nothing of it has been passed on
		return vDrop, true
	}
	if len(l.pending) >= l.pendingLimit() {
		l.engine.C.drop(DropPending)
		return vDrop, true
	}
	if s.payload > 0 && l.engine.tooMuch(l.rxNxt-l.rxFreed+l.waiting()) {
		l.engine.C.drop(DropMemory)
		return vDrop, true
	}
	l.wait(pkt)
	return vQueued, true
}

// inputAttached deals with what the endpoint must not see.
func (l *Leg) inputAttached(s *segment) (verdict, answer) {
	if s.payload > 0 && l.engine.tooMuch(l.rxNxt-l.rxFreed) {
		l.engine.C.drop(DropMemory)
		return vDrop, nil
	}
	f := s.tcp.Flags()
	if l.halfWay && f&(header.TCPFlagSyn|header.TCPFlagRst) == 0 && s.segLen() > 0 {
		l.halfWay = false // a server that speaks is past its handshake
	}
	finIn := l.finHeld || l.rxFin > 0 && l.rxNxt >= l.rxFin // netstack may not have taken a held one yet
	if f&header.TCPFlagRst != 0 && l.restored && finIn && l.txNxt <= max(l.txUna, l.peerAck) {
		// The peer has sent its FIN and has everything we sent: it is closed, and
		// says of a repetition of ours what a closed port says. That ends nothing;
		// should there be more to send, it will say it again.
		l.engine.C.drop(DropStaleSegment)
		return vDrop, nil
	}
	if f&header.TCPFlagSyn != 0 && f&header.TCPFlagAck == 0 {
		if !l.confirmed && s.tcp.SequenceNumber() == l.p.IRS {
			// The client never saw our SYN-ACK; the handshake is ours, not
			// the endpoint's.
			return vDrop, l.synAck
		}
		return vDeliver, nil // challenge ACK, RFC 5961 section 4
	}
	return vDeliver, nil
}

// translateIn turns wire numbers into stack numbers and notes what the peer has
// acknowledged. The reply, if any, is to be emitted.
func (l *Leg) translateIn(s *segment) (v verdict, reply answer) {
	tcp := s.tcp
	opts := []byte(tcp[header.TCPMinimumSize:])
	ts, sack, ok := locateOptions(opts)
	if !ok {
		l.engine.C.drop(DropOptions)
		return vDrop, nil
	}
	var tsVal uint32
	if ts >= 0 {
		tsVal = be32(opts[ts+2:])
	}
	if refused, reply := l.refuse(s, tsVal, ts >= 0); refused {
		return vDrop, reply
	}
	var ecr uint32
	if ts >= 0 {
		if ecr = be32(opts[ts+6:]); ecr != 0 {
			put32(opts[ts+6:], l.echoIn(ecr))
		}
	}
	if tcp.Flags()&header.TCPFlagAck == 0 {
		return vDeliver, nil
	}
	withheld := l.withholds()
	if ts >= 0 && l.repeats(s) {
		l.freshen(tsVal)
		l.speaks()
	}
	ack := tcp.AckNumber()
	off, ok := near(l.txNxt, ack-(l.p.ISS+1))
	if ok && tcp.Flags()&(header.TCPFlagSyn|header.TCPFlagRst) == 0 && l.acceptable(s) {
		l.learn(s, tsVal, ts >= 0)
		if l.heard() || l.restored && !l.located {
			defer l.events.Wake(l) // somebody may wait for that, see Probe and PeerHas
		}
		first := l.locate()
		l.settle(off)
		l.note(s)
		l.comesAhead(s)
		l.keepEdge(tcp, off)
		if off > l.txNxt && l.restored {
			// A peer that knows more of us than the new endpoint does (the
			// former active sent it): netstack would ignore the ACK and the
			// connection would hang. It is news; the rest counts when the
			// endpoint has sent that far.
			l.engine.C.Clamped.Add(1)
			reply = l.learnPeerAck(s, off, tsVal, ecr, ts >= 0)
			off = l.txNxt
			ack = l.txSeq(off)
		}
		if (l.restored || l.resumed) && reply == nil && l.answered(s, tsVal, ecr, ts >= 0) {
			reply = l.ackNow
		}
		if off > l.txUna {
			l.txUna = off
			if reply == nil && l.restored && off >= l.peerAck {
				reply = l.payOwed // of a FIN, see gate
			}
		}
		if first && l.restored {
			l.locatedNow()
		}
	}
	if withheld && !l.unheard && reply == nil {
		reply = l.payOwed
	}
	l.finishIn(tcp, opts, sack, ack)
	return vDeliver, reply
}

// keepEdge leaves the right edge of the peer's window where its newest ACK has put it: netstack adds the window of
// one that was overtaken on its way to SND.UNA, and would send beyond what the peer has space for (RFC 9293,
// 3.10.7.4: the window is taken from what is newer only).
func (l *Leg) keepEdge(tcp header.TCP, off uint64) {
	scale := max(l.p.PeerWS, 0)
	edge := off + uint64(tcp.WindowSize())<<scale
	if l.drain.on {
		l.peerEdge = max(l.peerEdge, edge) // what it acknowledges lies before the point
	}
	switch {
	case off >= l.txUna:
		l.peerEdge, l.peerTold = edge, true
	case l.peerEdge > 0: // else the newest ACK was the former active's
		tcp.SetWindowSize(l.peerWindow(l.txUna))
	}
}

// learnPeerAck notes that the peer has everything below off, which is beyond
// txNxt. Whatever we said from a lower sequence number it has discarded unread,
// the acknowledgement with it (RFC 9293, 3.10.7.4, first check): say it again
// from where the peer is.
func (l *Leg) learnPeerAck(s *segment, off uint64, tsVal, ecr uint32, stamped bool) answer {
	if off <= l.peerAck {
		return nil
	}
	l.peerAck = off
	if l.aheadSaid++; l.answered(s, tsVal, ecr, stamped) || l.aheadSaid <= aheadAnswers {
		return l.ackNow
	}
	return l.challenge()
}

// ackNow makes an ACK of what is permitted, from where the peer is.
func (l *Leg) ackNow() []byte {
	if l.state != stAttached && l.state != stBuilding && l.state != stParked { // building: what waited is replayed
		return nil
	}
	return l.ackTo(l.rxEdge, l.hurry())
}

// ackTo is ackNow with a window that ends at edge, or where it was if that is more.
func (l *Leg) ackTo(edge uint64, sack []byte) []byte {
	ack := l.permitted(l.rxNxt)
	edge = max(edge, ack)
	m := made{flags: header.TCPFlagAck, seq: l.txSeq(max(l.txNxt, l.peerAck)), ack: l.rxSeq(ack), window: l.windowTo(ack, edge)}
	m.opts = l.ackOptions(l.echo(), sack)
	l.left(ack, edge)
	return l.build(m)
}

func (l *Leg) finishIn(tcp header.TCP, opts []byte, sack int, ack uint32) {
	if l.seqDelta == 0 {
		if ack != tcp.AckNumber() {
			tcp.SetAckNumber(ack)
		}
		return
	}
	tcp.SetAckNumber(ack - l.seqDelta)
	if sack >= 0 {
		o := opts[sack : sack+int(opts[sack+1])]
		for i := 2; i+4 <= len(o); i += 4 { // DSACK blocks too (RFC 2883)
			put32(o[i:], be32(o[i:])-l.seqDelta)
		}
	}
}

// inputTombstone answers for a connection that ended in order.
func (l *Leg) inputTombstone(s *segment) (verdict, answer) {
	f := s.tcp.Flags()
	switch {
	case f&header.TCPFlagRst != 0:
		return vDrop, nil
	case f&(header.TCPFlagSyn|header.TCPFlagAck) == header.TCPFlagSyn:
		return vSYN, nil
	case f&header.TCPFlagSyn != 0:
		l.engine.C.drop(DropStaleSegment)
		return vDrop, nil
	case s.segLen() == 0:
		return vDrop, nil
	}
	return vDrop, func() []byte {
		m := made{flags: header.TCPFlagAck, seq: l.txSeq(l.txNxt), ack: l.rxSeq(l.rxNxt), window: 0xffff}
		m.opts = l.ackOptions(l.echo(), nil)
		return l.build(m)
	}
}

// inputReset answers for a connection that we have reset, as a closed port does
// (RFC 9293, 3.10.7.1).
func (l *Leg) inputReset(s *segment) (verdict, answer) {
	switch f := s.tcp.Flags(); {
	case f&header.TCPFlagRst != 0:
		return vDrop, nil
	case f&(header.TCPFlagSyn|header.TCPFlagAck) == header.TCPFlagSyn:
		return vSYN, nil
	case f&header.TCPFlagAck == 0:
		l.engine.C.drop(DropStaleSegment)
		return vDrop, nil
	}
	seq := s.tcp.AckNumber()
	return vDrop, func() []byte {
		return l.build(made{flags: header.TCPFlagRst, seq: seq})
	}
}
