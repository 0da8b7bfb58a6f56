package stack

import (
	"encoding/binary"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// A leg with which nothing is going on is parked: it gives its endpoint back, which is most of what it
// costs, and is in the table like one of a takeover's. Its numbers are all there is to know: everything
// that was said is acknowledged, by both. A segment that says nothing new (a keepalive, its answer, a
// window update) is dealt with here; any other one waits until an endpoint is built again. That one
// begins with the initial window, as any sender that has been silent for longer than its time-out
// should. It is not the letter of RFC 5681, 4.1: netstack's ssthresh and a congestion window below the
// initial one are not carried over, for it takes neither from outside; so after a loss shortly before the rest it is less
// careful than it should be, like a connection that is new or taken over.

// Rests reports whether the leg can be parked: nothing is going on, and nothing has come for rest.
// received is how much was taken from its receive queue, sent how much was written to it. Stream
// method, as Park.
func (l *Leg) Rests(received, sent uint64, rest time.Duration) bool {
	if l.ep == nil || tcp.EndpointState(l.ep.State()) != tcp.StateEstablished {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rests(received, sent, rest)
}

// rests is Rests, but for the endpoint's state. mu is held.
func (l *Leg) rests(received, sent uint64, rest time.Duration) bool {
	switch {
	case l.state != stAttached || l.err != nil || !l.confirmed || l.halfWay || l.drain.on:
		return false
	case l.rxNxt != received || l.rxFreed != received || l.rxSeen > received || l.rxAcked != received || l.owed.set && l.owed.ack > l.rxAcked || l.delay.listed:
		return false // the peer waits for an acknowledgement, or may
	case l.rxEdge <= l.rxAcked:
		return false // its window is closed, or was: only an endpoint opens it
	case l.txNxt != sent || l.txUna != sent || l.peerAck > sent || l.head != nil:
		return false
	case l.rxFin > 0 || l.txFin > 0 || l.finHeld:
		return false
	case l.probing || l.resumed || l.unheard || l.missing():
		return false
	}
	// What netstack was given long ago is dealt with; its answer would have left. Were it not, it would be lost as on
	// a network: nobody was told that it has come. Long ago is a janitorPeriod less than rest at worst, by the age
	// of tick: of the second that rest is at least (config), 0.8. In tests rest is 0, and it may be lost.
	return time.Duration(l.engine.tick.Load())-l.rxCame >= rest
}

// Park gives the endpoint back if the leg rests.
func (l *Leg) Park(received, sent uint64, rest time.Duration) bool {
	if !l.Rests(received, sent, rest) {
		return false
	}
	var info tcpip.TCPInfoOption
	measured := l.ep.GetSockOpt(&info) == nil && info.RTT > 0
	l.outMu.Lock() // what netstack is about to say has left, or is never said
	l.mu.Lock()
	if !l.rests(received, sent, rest) {
		l.mu.Unlock()
		l.outMu.Unlock()
		return false
	}
	ep, waits := l.ep, l.waits
	l.ep, l.waits, l.state, l.parked = nil, nil, stParked, true
	l.owed = owedAck{} // another answer has said it
	l.ahead = nil
	// The next endpoint announces the window to us that the peer has long, and has sent none
	// of the stamps that the peer may echo.
	l.quiet, l.ownEcho = true, false
	if measured {
		l.p.RTTMicros = uint32(min(info.RTT.Microseconds(), 10_000_000))
	}
	l.mu.Unlock()
	l.outMu.Unlock()
	waits.wq.EventUnregister(&waits.entry)
	ep.Abort() // its RST is dropped in output
	l.engine.C.Parked.Add(1)
	return true
}

// Unpark makes those legs that are parked wait for their endpoints.
func Unpark(legs ...*Leg) {
	for _, l := range legs {
		l.mu.Lock()
		if l.state == stParked {
			l.state = stWaiting
		}
		l.mu.Unlock()
	}
}

// Parked reports whether all legs are parked, and nothing has come that ends that.
func Parked(legs ...*Leg) bool {
	for _, l := range legs {
		if !l.Parked() {
			return false
		}
	}
	return true
}

// Parked is the function Parked of one leg.
func (l *Leg) Parked() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state == stParked
}

// inputParked takes a segment for a leg that is parked. mu is held.
func (l *Leg) inputParked(s *segment, pkt *stack.PacketBuffer) (v verdict, wake bool, reply answer) {
	if l.err != nil {
		v, reply = l.inputReset(s)
		return v, false, reply
	}
	asks := l.asks(s)
	if asks || l.noNews(s) {
		if v, reply = l.translateIn(s); v == vDeliver && asks && reply == nil {
			l.asked.Store(true)
			return vDrop, true, nil
		}
		return vDrop, false, reply
	}
	switch f := s.tcp.Flags(); {
	case f&(header.TCPFlagSyn|header.TCPFlagRst) != 0 && (f&header.TCPFlagSyn != 0 || s.tcp.SequenceNumber() != l.rxSeq(l.rxNxt)):
		// Answered as netstack does (RFC 5961, 3.2 and 4.2).
		l.engine.C.drop(DropStaleSegment)
		if f&header.TCPFlagSyn != 0 || l.acceptable(s) {
			reply = l.challenge()
		}
		return vDrop, false, reply
	case !l.acceptable(s):
		if v, reply = l.translateIn(s); v == vDeliver && reply == nil {
			l.engine.C.drop(DropStaleSegment)
			if reply = l.ackNow; s.payload == 0 { // else no ACK answers an ACK
				reply = l.challenge()
			}
		}
		return vDrop, false, reply
	}
	if refused, reply := l.refuseUnread(s); refused {
		return vDrop, false, reply
	}
	l.state = stWaiting
	v, wake = l.inputWaiting(s, pkt)
	return v, wake, nil
}

// noNews (of a segment in wire numbers) reports whether a segment is an ACK from where its peer is known to be, of what it is known
// to have.
func (l *Leg) noNews(s *segment) bool {
	const kind = header.TCPFlagSyn | header.TCPFlagFin | header.TCPFlagRst | header.TCPFlagAck
	return s.payload == 0 && s.tcp.Flags()&kind == header.TCPFlagAck &&
		s.tcp.SequenceNumber() == l.rxSeq(l.rxNxt) && s.tcp.AckNumber() == l.txSeq(l.txNxt)
}

// refuseUnread is refuse of a segment of which nothing has been looked at yet.
func (l *Leg) refuseUnread(s *segment) (refused bool, reply answer) {
	opts := []byte(s.tcp[header.TCPMinimumSize:])
	ts, _, ok := locateOptions(opts)
	if !ok {
		l.engine.C.drop(DropOptions)
		return true, nil
	}
	var tsVal uint32
	if ts >= 0 {
		tsVal = be32(opts[ts+2:])
	}
	return l.refuse(s, tsVal, ts >= 0)
}

// again reports whether an earlier endpoint, here or elsewhere, has spoken with the peer.
func (l *Leg) again() bool { return l.restored || l.parked }

// withByte gives a packet in the peer's name, that is injected and of which nobody verifies checksums, a byte of
// payload: netstack's ACK of data counts for none of those that are rate-limited (RFC 5961, 7), one of
// which the peer may be about to need.
func (l *Leg) withByte(b []byte) []byte {
	at := 2 // IPv4, total length
	if l.v6 {
		at = 4 // payload length
	}
	binary.BigEndian.PutUint16(b[at:], binary.BigEndian.Uint16(b[at:])+1)
	return append(b, 0)
}
