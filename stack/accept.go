package stack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// What of a segment may be believed. netstack checks sequence numbers by itself; it
// does not check timestamps (RFC 7323, section 5) nor how far an acknowledgement
// goes back or ahead (RFC 5961, section 5), and it knows nothing of what a former
// active has sent. What the wrap learns of the peer it learns here, and from
// nothing that a stranger could send who does not see the connection.

const (
	// challengePeriod is how often a leg answers what it refuses (RFC 5961, section
	// 7). It is counted per leg: a limit for all would tell a stranger who else is
	// talking (CVE-2016-5696).
	challengePeriod = 500 * time.Millisecond
	// aheadAnswers is how many acknowledgements from ahead of us are answered beyond
	// that after a takeover: the peer may be acknowledging what is still in flight.
	aheadAnswers = 16
	// lateLife is how long after a takeover segments of the former active may still
	// be on their way to the peer.
	lateLife = 3 * time.Second
	// pawsLife is how long TS.Recent is good for comparisons (RFC 7323, 5.5).
	pawsLife = 24 * 24 * time.Hour
	// pawsSlack is by how many ticks a segment may be older: several processors of
	// one sender, or several queues of one NIC, reorder that much.
	pawsSlack = 1
)

// acceptable is the first check of RFC 9293, 3.10.7.4: the segment touches the
// receive window. As in netstack, and in Linux, the edge itself counts.
func (l *Leg) acceptable(s *segment) bool {
	off, ok := l.rxOffset(s.tcp.SequenceNumber())
	if !ok || off > max(l.rxEdge, l.rxNxt) {
		return false
	}
	if n := uint64(s.segLen()); n > 0 {
		return off+n > l.rxNxt
	}
	return off >= l.rxNxt
}

// ackLimit is the highest offset that the peer can acknowledge. After a takeover
// that is what the former active can have sent, until the peer has shown where it
// is and nothing of that can be on its way any more.
func (l *Leg) ackLimit() uint64 {
	n := max(l.txNxt, l.peerAck)
	if l.restored && !l.settled {
		n = max(n, l.txReach)
	}
	return n
}

// refuse decides about an acceptable segment that netstack would take: one with an
// old timestamp, or that acknowledges what cannot be. mu is held.
func (l *Leg) refuse(s *segment, tsVal uint32, hasTS bool) (refused bool, reply answer) {
	f := s.tcp.Flags()
	if f&(header.TCPFlagRst|header.TCPFlagSyn) != 0 {
		return false, nil // netstack challenges them (RFC 5961, sections 3 and 4)
	}
	if hasTS && l.oldTimestamp(tsVal) {
		l.engine.C.drop(DropTimestamp)
		if s.segLen() == 0 {
			return true, nil // an ACK that was overtaken; an answer would look like a duplicate ACK
		}
		return true, l.challenge()
	}
	if f&header.TCPFlagAck == 0 || !l.acceptable(s) {
		return false, nil // netstack answers that
	}
	off, ok := near(l.txNxt, s.tcp.AckNumber()-(l.p.ISS+1))
	if !ok || off > l.ackLimit() || off+l.maxPeerWindow() < l.txUna {
		l.engine.C.drop(DropAckRange)
		return true, l.challenge()
	}
	return false, nil
}

// oldTimestamp is PAWS (RFC 7323, 5.3 R1).
func (l *Leg) oldTimestamp(val uint32) bool {
	return l.p.TS && l.tsKnown && int32(l.p.PeerTS-val) > pawsSlack && l.engine.now() < l.tsAt+pawsLife
}

// maxPeerWindow is the largest window that the peer ever announced (MAX.SND.WND),
// bytes. Of a continued leg only the former active knows it.
func (l *Leg) maxPeerWindow() uint64 {
	if l.restored {
		return 0xffff << max(l.p.PeerWS, 0)
	}
	return uint64(l.peerWndMax) << max(l.p.PeerWS, 0)
}

// challenge answers a refused segment with an ACK, which makes a true peer say
// where it is; not too often.
func (l *Leg) challenge() answer {
	now := l.engine.now()
	if now < l.challengeAt {
		return nil
	}
	l.challengeAt = now + challengePeriod
	return l.ackNow
}

// learn takes from an acceptable segment what it tells of the peer, but for what it
// acknowledges.
func (l *Leg) learn(s *segment, tsVal uint32, hasTS bool) {
	seq, _ := l.rxOffset(s.tcp.SequenceNumber())
	if hasTS && seq <= l.rxNxt {
		l.noteTimestamp(tsVal) // RFC 7323, 5.3 R3; RCV.NXT as netstack has said it
	}
	l.peerWndMax = max(l.peerWndMax, s.tcp.WindowSize())
	l.rxSeen = max(l.rxSeen, seq+uint64(s.segLen()))
	if s.payload > 0 {
		l.delay.came = min(l.delay.came+1, 2)
	}
	if !l.confirmed {
		l.confirmed = true
		if l.restored {
			l.engine.halfOpenDone(l)
			defer l.events.Wake(l) // data for the peer may have waited for this
		}
	}
	if s.tcp.Flags()&header.TCPFlagFin == 0 {
		return
	}
	// Where the peer's stream ends: inside the window, and unless netstack has taken
	// the FIN already. If bytes come from beyond it was no FIN, see received.
	end := seq + uint64(s.segLen())
	if end > l.rxNxt && end-1 <= max(l.rxEdge, l.rxNxt) {
		l.rxFin = end
	}
}

func (l *Leg) noteTimestamp(val uint32) {
	if l.tsKnown && int32(val-l.p.PeerTS) <= 0 && l.engine.now() < l.tsAt+pawsLife {
		return
	}
	l.p.PeerTS, l.tsKnown, l.tsAt = val, true, l.engine.now()
}

// echo is the TSecr of what we send. Before a continued leg's peer has sent anything
// in order, what the record has is as old as the connection: a peer that has sent
// something again takes its round trip from it (RFC 7323, 4.3), and would set its
// retransmission time-out to minutes. Zero is no echo.
func (l *Leg) echo() uint32 {
	if l.restored && !l.tsKnown {
		return l.lateEcho(0)
	}
	return l.lateEcho(l.p.PeerTS)
}

// echoIn returns the echo that netstack is to see. One of a former active's stamp
// would make the outage a round trip.
func (l *Leg) echoIn(ecr uint32) uint32 {
	if ecr == 0 {
		return 0
	}
	if l.again() && !l.ownEcho {
		if int32(ecr-l.tsBorn) < 0 {
			return 0
		}
		l.ownEcho = true
	}
	return ecr - l.tsDelta
}

// settle decides whether the peer is located for good: it is where this endpoint has
// sent, and what the former active sent has arrived or is lost.
func (l *Leg) settle(off uint64) {
	if l.restored && !l.settled && off <= l.txNxt && l.peerAck <= l.txNxt && l.engine.now() >= l.bornAt+lateLife {
		l.settled = true
	}
}

// reach is the highest offset that the former active can have sent: no more than
// the source of the stream could send, which ends at the window that it was given.
func (e *Engine) reach(r *Resume) uint64 {
	held := max(r.Held, r.Sent)
	if r.HeldFIN {
		return held + 1
	}
	n := held + e.window + windowSlack + 1
	if r.ManySources {
		// One may have gone on where another one's bytes were queued for the peer.
		n += uint64(e.sendBuffer)
	}
	return n
}
