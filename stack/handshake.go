package stack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// The client's handshake is the wrap's own, not netstack's: the SYN waits until
// the server has answered (so a refused client learns it in the usual way), the
// SYN-ACK until the connection's record is safe, and no endpoint exists before
// the client has proved that it is there.

// SYN-ACK retransmission (RFC 6298, section 5.5: doubling from one second).
const (
	synAckFirst = time.Second
	synAckMax   = 4 // attempts; after the last the client is given up 8 s later
	// synAckContinued is for a client that may be established since long, and behind a
	// network that is away for the moment: every 8 s after the first four.
	synAckContinued = 7
)

// newHalfOpen makes the leg for a client's SYN.
func (e *Engine) newHalfOpen(s *segment) (*Leg, bool) {
	l := &Leg{engine: e, flow: s.flow, v6: s.v6, state: stSynReceived}
	l.p.Local, l.p.Remote = addrPort(s.flow.local, s.flow.localPort), addrPort(s.flow.remote, s.flow.remotePort)
	if !l.p.readSYN(s) {
		e.C.drop(DropOptions)
		return nil, false
	}
	l.tsKnown, l.tsAt, l.peerWndMax = true, e.now(), s.tcp.WindowSize()
	l.p.ISS = e.isn(&s.flow)
	l.p.OurMSS = e.mss(s.v6)
	l.p.OurWS = -1
	if l.p.PeerWS >= 0 {
		l.p.OurWS = int8(e.windowScale)
		l.ws = e.windowScale
	}
	if l.p.TS {
		l.p.TSOffset = e.isn(&s.flow) // any value: it only has to be hard to guess (RFC 7323, 5.4)
	}
	return l, true
}

// Accept answers the client's SYN. The record must be safe by now (invariant 1).
func (l *Leg) Accept() {
	l.outMu.Lock()
	defer l.outMu.Unlock()
	l.mu.Lock()
	if l.state != stSynReceived {
		l.mu.Unlock()
		return
	}
	l.state = stSynAcked
	b := l.synAck()
	l.mu.Unlock()
	l.engine.emitMade(b)
}

// synAck makes our SYN-ACK; mu is held.
func (l *Leg) synAck() []byte {
	l.synAckAt = l.engine.now()
	l.synAckTries++
	wnd := l.engine.firstWindow(l.p.OurMSS)
	l.rxEdge = max(l.rxEdge, uint64(wnd)) // never scaled in a SYN (RFC 7323, 2.2)
	var ts uint32
	if l.p.TS {
		ts = l.tsNow()
	}
	opts := synOptions(make([]byte, header.TCPOptionsMaximumSize), l.p.OurMSS, l.p.OurWS, l.p.SACK, l.p.TS, ts, l.p.PeerTS)
	return l.build(made{
		flags: header.TCPFlagSyn | header.TCPFlagAck, seq: l.p.ISS, ack: l.p.IRS + 1, window: wnd, opts: opts,
	})
}

// firstWindow is the window that an endpoint will start with, so that its first
// ACK does not move the right edge back: netstack begins with twice its initial
// congestion window, rounded down to its scale whether that is used or not, and
// opens up from there.
func (e *Engine) firstWindow(ourMSS uint16) uint16 {
	wnd := min(0xffff, 2*tcp.InitialCwnd*uint32(ourMSS), uint32(e.window))
	return uint16(wnd >> e.windowScale << e.windowScale)
}

// Refuse answers the SYN as a closed port does.
func (l *Leg) Refuse() {
	l.mu.Lock()
	ok := l.state == stSynReceived || l.state == stSynAcked
	b := l.build(made{
		flags: header.TCPFlagRst | header.TCPFlagAck, ack: l.p.IRS + 1,
	})
	l.mu.Unlock()
	if ok {
		l.engine.emitMade(b)
	}
	l.Drop()
}

// sendReset resets a peer that is established but for which no endpoint exists.
func (l *Leg) sendReset() {
	l.mu.Lock()
	b := l.build(made{
		flags: header.TCPFlagRst | header.TCPFlagAck, seq: l.txSeq(max(l.peerAck, l.txNxt)), ack: l.rxSeq(l.rxAcked),
	})
	l.mu.Unlock()
	l.engine.emitMade(b)
}

// askForReset makes a peer that has not believed our RST say where it is: the
// keepalive's form (RFC 1122, 4.2.3.6) must be answered with an ACK, and that with
// a RST from exactly there (inputReset).
func (l *Leg) askForReset() {
	l.outMu.Lock()
	defer l.outMu.Unlock()
	l.mu.Lock()
	ack := l.permitted(l.rxNxt)
	m := made{flags: header.TCPFlagAck, seq: l.txSeq(l.txNxt) - 1, ack: l.rxSeq(ack), window: l.windowTo(ack, l.rxEdge)}
	m.opts = l.ackOptions(l.echo(), nil)
	b := l.build(m)
	l.mu.Unlock()
	l.engine.emitMade(b)
}

// inputHalfOpen is the rest of the client's handshake. mu is held.
func (l *Leg) inputHalfOpen(s *segment, pkt *stack.PacketBuffer) (v verdict, wake bool, reply answer) {
	f := s.tcp.Flags()
	seq := s.tcp.SequenceNumber()
	switch {
	case f&header.TCPFlagRst != 0:
		if seq != l.p.IRS+1 && seq != l.p.IRS {
			l.engine.C.drop(DropStaleSegment)
			return vDrop, false, nil
		}
		l.err, l.state = ErrReset, stClosed
		l.engine.forget(l)
		return vDrop, true, nil
	case f&header.TCPFlagSyn != 0 && f&header.TCPFlagAck == 0:
		if seq != l.p.IRS {
			// A new incarnation of the client. The old attempt ends; the new
			// SYN is repeated by the client and finds the flow free.
			l.err, l.state = ErrReset, stClosed
			l.engine.forget(l)
			return vDrop, true, nil
		}
		if l.state == stSynAcked {
			return vDrop, false, l.synAck
		}
		return vDrop, false, nil
	case f&header.TCPFlagAck != 0 && s.tcp.AckNumber() != l.p.ISS+1 && l.engine.ownCookie(s):
		// It answers a cookie that it was sent for an earlier copy of its SYN, perhaps by
		// the former active: the connection is that one.
		l.err, l.state = ErrReset, stClosed
		l.engine.forget(l)
		return vSYN, true, nil
	case f&header.TCPFlagAck == 0 || l.state != stSynAcked:
		l.engine.C.drop(DropStaleSegment)
		return vDrop, false, nil
	}
	if s.tcp.AckNumber() != l.p.ISS+1 || int32(seq-(l.p.IRS+1)) < 0 || uint64(seq-(l.p.IRS+1)) > l.rxEdge {
		l.engine.C.drop(DropStaleSegment)
		return vDrop, false, nil
	}
	if l.synAckTries == 1 {
		l.p.RTTMicros = uint32(min((l.engine.now() - l.synAckAt).Microseconds(), 10_000_000))
	}
	l.confirmed = true
	l.state = stWaiting
	l.engine.halfOpenDone(l)
	l.engine.Heard(l.p.Remote.Addr())
	l.wait(pkt)
	return vQueued, true, nil
}

// retransmitSYNACK is called by the janitor for every half-open leg. It returns
// false when the client is given up. A continued leg whose client has not been heard
// of since the takeover is half-open, too: its first SYN-ACK is the probe, when the
// endpoint is there.
func (l *Leg) retransmitSYNACK(now time.Duration) bool {
	l.outMu.Lock()
	defer l.outMu.Unlock()
	l.mu.Lock()
	again := l.state == stSynAcked || (l.restored && l.state < stTombstone)
	if !again || l.confirmed || l.synAckTries == 0 || now < l.synAckAt+synAckFirst<<min(l.synAckTries-1, synAckMax-1) {
		l.mu.Unlock()
		return true
	}
	if l.synAckTries >= synAckMax && !l.restored || l.synAckTries >= synAckContinued {
		l.mu.Unlock()
		return false
	}
	b := l.synAck()
	l.mu.Unlock()
	l.engine.emitMade(b)
	return true
}

// giveUp ends the handshake of a client that is not heard of. A leg that has, or may
// have, an endpoint is only said to have ended: its worker may be reading from it.
func (l *Leg) giveUp() {
	l.mu.Lock()
	late, restored := !l.confirmed && l.err == nil, l.restored
	if late && restored {
		l.err = errTimeout
	}
	l.mu.Unlock()
	if !late {
		return
	}
	l.engine.halfOpenDone(l)
	if !restored {
		l.end(stClosed, errTimeout)
	}
	l.events.Wake(l)
}
