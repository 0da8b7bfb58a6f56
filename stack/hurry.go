package stack

import (
	"encoding/binary"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lockstep/splice"
)

// What was in flight when the former active died is lost, and its sender may have
// doubled its retransmission time-out several times before anybody answered. Two
// things make it send at once. A SACK block tells of a loss: to be used only before the
// time-out has struck, since the sender takes the reported segment's age for a round
// trip, and a time-out that has struck for spurious (RFC 5682), so that after a long
// outage it would wait for seconds. Then an ICMP error takes the doubling back (RFC 6069).

const (
	// quickOutage is how long ago the peer may have heard from us for its time-out not
	// to have struck: Linux's least one is 200 ms.
	quickOutage = 150 * time.Millisecond
	// hurriesMax is how many SACK blocks a leg may tell; revivesMax how many times its
	// peer's time-out may be taken back.
	hurriesMax, revivesMax = 4, 100
	// reverts is how many doublings are taken back at a time: 200 ms becomes 6.4 s.
	reverts = 5
)

// answered takes a pure ACK of a probed leg's peer for the answer to a probe. It
// reports whether an ACK of the wrap is to leave at once: the probe's own was not taken,
// since the probe lies before the peer's window, and those before may be lost. The peer's
// SND.NXT tells what is in flight. Once for each time that it was asked. tsVal is its stamp, if
// it is stamped, ecr its echo.
func (l *Leg) answered(s *segment, tsVal, ecr uint32, stamped bool) bool {
	if !l.probed || s.segLen() > 0 {
		return false
	}
	l.probed = false
	if stamped { // netstack takes others, too, which RFC 7323, 3.2, would have dropped
		l.freshen(tsVal)
	}
	l.peerNxt, _ = l.rxOffset(s.tcp.SequenceNumber())
	if l.missing() && !l.finHeld {
		l.startProbing()
		if l.resumed {
			// Nothing was acknowledged or lost with a dead half: a SACK block would only lie.
			l.revive = l.revives < revivesMax && l.rxNxt == l.rxProbed
		} else if l.silence(ecr) >= quickOutage {
			l.revive = l.revives < revivesMax
		} else if l.p.SACK && l.hurries < hurriesMax && l.twoMissing(l.peerNxt) {
			l.hurries++
			l.hurryTo = l.peerNxt
		}
	}
	return true
}

// silence is how long ago the peer has taken something from us for the last time: what
// it echoes is the stamp of that. Without timestamps it is the age of the endpoint.
func (l *Leg) silence(ecr uint32) time.Duration {
	if l.p.TS && ecr != 0 {
		return time.Duration(int32(l.tsNow()-ecr)) * time.Millisecond
	}
	return l.engine.now() - l.bornAt
}

// reviving makes what takes back the peer's doubled time-out: an ACK, so that the error
// that follows quotes the first that is in flight, and that error several times. mu and
// outMu are held.
func (l *Leg) reviving() (out [][]byte) {
	if !l.revive || l.state != stAttached && l.state != stBuilding {
		return nil
	}
	l.revive = false
	l.revives++
	out = append(out, l.ackTo(l.rxEdge, nil))
	b := l.unreachable()
	for range reverts {
		out = append(out, b)
	}
	return out
}

// missing reports whether the peer has sent what has not come: peerNxt is what it had
// sent when it answered.
func (l *Leg) missing() bool { return l.rxNxt < l.peerNxt }

// twoMissing reports whether the peer, who has sent everything below nxt, has at
// least two full segments in flight.
func (l *Leg) twoMissing(nxt uint64) bool { return nxt >= l.rxNxt+2*uint64(l.segmentSize()) }

// segmentSize is the payload of the peer's full segments.
func (l *Leg) segmentSize() uint32 {
	mss := uint32(l.p.OurMSS)
	if l.p.TS {
		mss -= header.TCPOptionTSLength + 2
	}
	return mss
}

// hurry makes a SACK option that starts the peer's loss recovery: it reports one of
// the segments in flight, so that the peer takes those before it for lost (RFC 8985,
// 6.2) and sends them again. When they are acknowledged and the reported one turns out
// to be missing it sends everything again, as RFC 2018 section 8 demands, since a
// receiver may discard what it has reported. That is what happened: the pair has
// discarded what its dead half held. Another segment each time: what a peer has been
// told before, by this appliance or by its predecessor, is no news to it.
func (l *Leg) hurry() []byte {
	nxt := l.hurryTo
	l.hurryTo = 0
	// Between the decision and this ACK the peer may have sent it all again. A block
	// beyond its SND.NXT would be a lie that RFC 2018 does not cover.
	if nxt == 0 || !l.twoMissing(nxt) {
		return nil
	}
	k := uint32(1) // the second of two
	if n := uint32(nxt-l.rxNxt) / l.segmentSize(); n > 2 {
		luck := binary.LittleEndian.Uint32(l.engine.secret[:]) + l.engine.ClockMillis()
		k = 2 + (luck*2654435761>>16)%(n-2) // Knuth's multiplicative hash
	}
	b := make([]byte, 10)
	b[0], b[1] = header.TCPOptionSACK, 10
	put32(b[2:], l.rxSeq(l.rxNxt)+k*l.segmentSize())
	put32(b[6:], l.rxSeq(l.rxNxt)+(k+1)*l.segmentSize())
	return b
}

// unreachable makes an ICMP error that quotes the first segment that the peer has in
// flight. A peer that has sent it again takes back one doubling of its time-out, and
// sends it at once if that is over (RFC 6069, section 4). To others it is a soft
// error, which ends no connection (RFC 1122, 4.2.3.9).
func (l *Leg) unreachable() []byte {
	quoted := l.flow.build(make([]byte, maxMade), l.v6, true, made{
		flags: header.TCPFlagAck, seq: l.rxSeq(l.rxAcked), ack: l.txSeq(max(l.txUna, l.peerAck)), window: l.peerWindow(max(l.txUna, l.peerAck)),
	})
	return splice.BuildUnreachable(make([]byte, splice.MaxError), l.v6, &l.flow.local, &l.flow.remote, quoted)
}
