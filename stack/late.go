package stack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// A sender that has sent something again takes its round trip from the stamp that we echo
// (RFC 7323, 4.1). What netstack echoes is the stamp of the segment that it acknowledges. Where
// the gate or a silence has kept that acknowledgement for longer than the sender's
// time-out, this would make the delay a round trip: its next time-out would be of seconds, and it
// would take its retransmission for spurious (RFC 3522), so that what else it had in
// flight, which is lost, would wait for that time-out. To the peer Last.ACK.sent is what has
// left, so what it repeats from there updates TS.Recent (RFC 7323, 4.3); and a peer that was
// asked where it is measures its true round trip by the stamp of its answer.

const (
	// freshLife is how long such a stamp is kept, for TSvals come round again.
	freshLife = time.Minute
	// withheldProbes is for how many questions after a silence nothing new is acknowledged
	// before the peer has answered: then its answer's stamp is there to be echoed.
	withheldProbes = 3
)

// freshen notes a stamp of the peer's that is to be echoed though netstack echoes an older one.
// mu is held.
func (l *Leg) freshen(val uint32) {
	if !l.p.TS {
		return
	}
	l.freshTS, l.freshUntil = val, l.engine.now()+freshLife
}

// repeats reports whether a segment is one that the peer sends again because what netstack has
// of it was not acknowledged.
func (l *Leg) repeats(s *segment) bool {
	if s.payload == 0 {
		return false
	}
	off, ok := l.rxOffset(s.tcp.SequenceNumber())
	return ok && off < l.rxNxt && off <= l.rxAcked && off+uint64(s.payload) >= l.rxAcked
}

// lateEcho is the TSecr to send where netstack, or the record, has ecr.
func (l *Leg) lateEcho(ecr uint32) uint32 {
	if l.freshUntil != 0 && (ecr == 0 || int32(l.freshTS-ecr) > 0) && l.engine.now() < l.freshUntil {
		return l.freshTS
	}
	return ecr
}

// withholds reports whether the peer is to answer first, before it gets an acknowledgement that
// was kept through a silence. mu is held.
func (l *Leg) withholds() bool {
	return l.unheard && l.p.TS && l.probesSent <= withheldProbes
}

// owe notes the acknowledgement that the gate keeps back. mu is held.
func (l *Leg) owe(ack, edge uint64, opts []byte, ts, sack int) {
	l.owed.set, l.owed.ack, l.owed.edge = true, ack, edge
	var option []byte
	if sack >= 0 {
		option = opts[sack : sack+int(opts[sack+1])]
	} else {
		option = l.halfSACK(ack)
	}
	if l.owed.sackN = 0; len(option) > 0 {
		if l.owed.sack == nil {
			l.owed.sack = new([34]byte)
		}
		l.owed.sackN = uint8(copy(l.owed.sack[:], option))
	}
	if ts >= 0 {
		l.owed.tsEcr = be32(opts[ts+6:])
	}
}

// payOwed makes the ACK that the gate now permits, or nil if none is owed.
// outMu and mu are held.
func (l *Leg) payOwed() []byte {
	o := &l.owed
	if !o.set || l.state != stAttached || l.err != nil {
		return nil
	}
	ack := min(o.ack, l.gate())
	if ack == o.ack {
		o.set = false
	}
	edge := l.edge(ack, o.edge)
	if ack <= l.rxAcked && edge <= l.rxEdge {
		return nil
	}
	ack = max(ack, l.rxAcked)
	m := made{flags: header.TCPFlagAck, seq: l.txSeq(max(l.txNxt, l.peerAck)), ack: l.rxSeq(ack), window: l.windowTo(ack, edge)}
	var sack []byte
	if o.sackN > 0 {
		sack = o.sack[:o.sackN]
	}
	m.opts = l.ackOptions(l.lateEcho(o.tsEcr), sack)
	l.left(ack, edge)
	l.engine.C.AcksOwed.Add(1)
	return l.build(m)
}
