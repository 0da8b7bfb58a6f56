package stack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"lockstep/tun"
)

// A leg of a connection that was passed on until now (taken.go). Per stream there is a point, behind
// all that its sender had sent by then: there the endpoint begins. What lies before it is between the
// two ends: their segments pass through passOn, and the peer is told nothing but what the receiver of
// its stream has said itself. So it is to the peer as if there were one sender still.

// legDrain is what is known of a leg until the standby knows that the connection is ended here: see widen.
type legDrain struct {
	on bool
	// edge is the right edge of the window that the stream's receiver has announced itself. Nothing
	// beyond is announced: whoever continues the connection as one that is passed on could not keep it,
	// and an end whose numbers are beyond the other's window is not heard at all.
	edge uint64
	// closed: the gate stands where the journal is told (CloseGate). A segment that was on its way to passOn by then
	// moves it no further.
	closed bool
}

// pendingAgain is pendingMax for a leg whose endpoint is not its first: its peer is past the slow start of the
// beginning, and a whole flight of it may come while the endpoint is built.
const pendingAgain = 512

// pendingLimit is how many packets may wait for the endpoint; mu is held.
func (l *Leg) pendingLimit() int {
	if l.again() {
		return pendingAgain
	}
	return pendingMax
}

// wait keeps a packet until the endpoint is there. Its bytes count as those in receive queues do. mu is held.
func (l *Leg) wait(pkt *stack.PacketBuffer) {
	l.pending = append(l.pending, pkt.IncRef())
	l.engine.buffered.Add(int64(pkt.Size()))
}

// waiting is how many bytes are kept for the endpoint; mu is held.
func (l *Leg) waiting() (n uint64) {
	for _, p := range l.pending {
		n += uint64(p.Size())
	}
	return n
}

// release ends the wait of packets that were taken from pending; each is given to f before.
func (l *Leg) release(pend []*stack.PacketBuffer, f func(*stack.PacketBuffer)) {
	for _, p := range pend {
		l.engine.buffered.Add(-int64(p.Size()))
		f(p)
		p.DecRef()
	}
}

// firstWindow is what the endpoint may send before the peer's first segment tells its window; mu is held.
func (l *Leg) firstWindow() uint16 {
	switch {
	case l.drain.on:
		return uint16(min(l.peerSpace(l.txNxt), initialSendWindow))
	case l.knowsWindow(): // a SYN's is not scaled (RFC 7323, 2.2)
		return uint16(min(l.peerSpace(l.txNxt), 0xffff))
	}
	return initialSendWindow
}

// knowsWindow reports whether the peer of a leg whose endpoint is not its first has told its window, and is not
// ahead of that endpoint; mu is held.
func (l *Leg) knowsWindow() bool { return l.again() && l.peerTold && l.peerAck <= l.txNxt }

// peerSpace is what the peer has space for from off on, by the newest of its ACKs; mu is held.
func (l *Leg) peerSpace(off uint64) uint64 { return max(l.peerEdge, off) - off }

// peerWindow is peerSpace as the window field of a segment that acknowledges everything below off; mu is held.
func (l *Leg) peerWindow(off uint64) uint16 {
	return uint16(min(l.peerSpace(off)>>max(l.p.PeerWS, 0), 0xffff))
}

// crossing is a segment of the other end's that passes: translated for the peer, in parts.
type crossing struct {
	queue       uint8
	vnet, head  []byte // head: IP and TCP header, which may be changed
	ipLen       int
	first, rest []byte // payload
	bare        bool   // without payload, from where the sender's endpoint is
	acked       uint32 // how far its sender is believed to have acknowledged the peer's stream
	stamp       uint32 // newest timestamp that is believed of its sender
}

// passOn writes it. It gets a stamp that is not older than what has left, as if the endpoint had made
// it. What it acknowledges is the receiver's own word, so the gate goes there.
func (l *Leg) passOn(p *crossing) {
	tcp := header.TCP(p.head[p.ipLen:])
	f := fields{tcp: tcp}
	f.sums = !p.bare && p.vnet[0]&tun.FlagNeedsCsum == 0
	l.outMu.Lock()
	defer l.outMu.Unlock()
	l.mu.Lock()
	if p.bare {
		f.put(4, be(l.txSeq(max(l.txNxt, l.peerAck)))) // from below, Linux discards it and its SACK blocks unread
	}
	l.restamp(&f, p.stamp)
	var owed []byte
	if ack, ok := l.rxOffset(tcp.AckNumber()); ok {
		edge := ack + uint64(tcp.WindowSize())<<l.ws
		l.drain.edge = max(l.drain.edge, edge)
		if own, ok := l.rxOffset(p.acked); ok && !l.drain.closed {
			l.permit = max(l.permit, own)
		}
		// A receiver that has taken more than its window may be at the endpoint's beginning, or beyond: the peer must
		// not forget what the endpoint lacks.
		ack = max(min(ack, l.rxNxt, l.permit), l.rxAcked)
		if w := l.windowTo(ack, edge); w != tcp.WindowSize() {
			f.put(14, []byte{byte(w >> 8), byte(w)})
		}
		if s := l.rxSeq(ack); s != tcp.AckNumber() {
			f.put(8, be(s))
		}
		l.left(ack, edge)
		owed = l.payOwed()
	}
	l.mu.Unlock()
	if p.bare {
		p.strip()
	}
	l.engine.writeParts(p.queue, p.vnet, p.head, p.first, p.rest)
	if owed != nil {
		l.engine.emitMadeBy(p.queue, owed)
	}
}

// restamp makes the timestamps option fit to what has left and what the peer has sent. Never an older
// stamp than its own: the echo would make what was sent again look as if the first copy had arrived
// (RFC 3522). Nor an echo that is newer than what the peer has sent: that is of a stamp which the other
// leg has made. mu is held.
func (l *Leg) restamp(f *fields, newest uint32) {
	ts, _, ok := locateOptions([]byte(f.tcp[header.TCPMinimumSize:]))
	if !ok || ts < 0 || !l.p.TS {
		return
	}
	ts += header.TCPMinimumSize
	if d := newest - l.tsNow(); int32(d) > 0 {
		l.p.TSOffset += d
		l.tsDelta += d // an echo from the future is a round trip of weeks to netstack
	}
	if now := l.tsNow(); now != be32(f.tcp[ts+2:]) {
		f.put(ts+2, be(now))
	}
	if ecr := be32(f.tcp[ts+6:]); int32(ecr-l.p.PeerTS) > 0 {
		f.put(ts+6, be(l.p.PeerTS))
	}
}

// strip makes it a segment without payload, with whole checksums.
func (p *crossing) strip() {
	p.vnet, p.first, p.rest = make([]byte, tun.VnetHeaderLen), nil, nil
	tcp := header.TCP(p.head[p.ipLen:])
	tcp[13] = tcp[13]&0xc0 | byte(header.TCPFlagAck) // ECE and CWR are about the path, not the payload (RFC 3168, 6.1)
	put16(tcp[18:], 0)                               // the urgent pointer
	var x uint16
	if p.head[0]>>4 == 6 {
		header.IPv6(p.head).SetPayloadLength(uint16(len(p.head) - header.IPv6MinimumSize))
		x = checksum.Checksum(p.head[8:40], 0)
	} else {
		ip := header.IPv4(p.head)
		ip.SetTotalLength(uint16(len(p.head)))
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
		x = checksum.Checksum(p.head[12:20], 0)
	}
	x = checksum.Combine(checksum.Combine(x, uint16(header.TCPProtocolNumber)), uint16(len(tcp)))
	tcp.SetChecksum(0)
	tcp.SetChecksum(^tcp.CalculateChecksum(x))
}

// widen ends the time in which no more window is told than the receiver's own: whoever continues the connection does so
// with endpoints. The peer may wait for it. outMu is held.
func (l *Leg) widen() {
	l.mu.Lock()
	if !l.drain.on {
		l.mu.Unlock()
		return
	}
	l.drain.on = false
	var b []byte
	if edge := l.edge(l.rxNxt, l.rxWants); edge > l.rxEdge && l.state == stAttached {
		b = l.ackTo(edge, nil)
	}
	l.mu.Unlock()
	if b != nil {
		l.engine.emitMade(b)
	}
}

// hearsPassing notes the stamp of a segment that the peer has sent and that passes: what it has sent
// again must not be echoed an older one, or it would take its retransmission for spurious (RFC 3522).
func (l *Leg) hearsPassing(stamp uint32) {
	l.mu.Lock()
	l.noteTimestamp(stamp)
	l.mu.Unlock()
}

// newestStamp is the newest timestamp that has left to the peer, or later.
func (l *Leg) newestStamp() uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tsNow()
}

// fields changes a TCP header's fields, and if sums is set the whole checksum with them (RFC 1624).
type fields struct {
	tcp  header.TCP
	sums bool
}

func (f *fields) put(at int, b []byte) {
	was := f.tcp[at : at+len(b)]
	if f.sums {
		sum := f.tcp[header.TCPChecksumOffset:]
		x := uint32(^binary.BigEndian.Uint16(sum))
		for i := range b {
			shift := 8 * ((at + i + 1) % 2) // an octet at an even place is the upper one
			x += uint32(^(uint16(was[i]) << shift)) + uint32(b[i])<<shift
		}
		for x>>16 != 0 {
			x = x&0xffff + x>>16
		}
		put16(sum, ^uint16(x))
	}
	copy(was, b)
}

func be(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

func put16(b []byte, v uint16) { binary.BigEndian.PutUint16(b, v) }
