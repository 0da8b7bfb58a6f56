package stack

import (
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// What a segment says beside its bytes passes from one leg to the other, as far as it
// has a meaning there: the class of service (DSCP, RFC 2474), and where urgent data
// ends (RFC 9293, 3.8.5). netstack knows neither. A takeover forgets both: the class
// comes again with the next segment, the urgent mark of bytes that are on their way is
// lost, and they arrive as ordinary ones.

// Join makes a and b the two legs of a connection: the class that arrives on either leaves on
// the other, and so does the urgent mark unless the leg is lone.
func Join(a, b *Leg) {
	a.mate.Store(b)
	b.mate.Store(a)
}

// Lone tells that the leg may come to have another one that is not at the same offsets, or
// none: urgent data that arrives on it becomes ordinary, and that is told. It is called before
// the leg's peer can have sent any.
func (l *Leg) Lone() { l.lone.Store(true) }

const ecnBits = 3 // of the octet whose other six are the DSCP

// class is the DSCP of a packet, with ECN's bits clear: netstack has no ECN, and the
// other path is another one (RFC 3168, section 9 is of tunnels).
func (s *segment) class() uint32 {
	if s.v6 {
		return uint32(s.ip[0]<<4|s.ip[1]>>4) &^ ecnBits
	}
	return uint32(s.ip[1]) &^ ecnBits
}

// note takes what a plausible segment says for the other leg; mu is held.
func (l *Leg) note(s *segment) {
	if c := s.class(); c != l.rxClass.Load() {
		l.rxClass.Store(c)
	}
	if s.tcp.Flags()&header.TCPFlagUrg == 0 {
		return
	}
	end, ok := l.rxOffset(s.tcp.SequenceNumber() + uint32(s.tcp[18])<<8 + uint32(s.tcp[19]))
	if !ok {
		return
	}
	if l.lone.Load() {
		l.engine.C.drop(DropUrgent)
		l.engine.notice(NoticeUrgent, l.p.Remote)
		return
	}
	l.rxUrgent.Store(max(l.rxUrgent.Load(), end))
}

// txClass is the class of the newest segment that has come from the other leg's peer.
func (l *Leg) txClass() uint8 {
	if m := l.mate.Load(); m != nil {
		return uint8(m.rxClass.Load())
	}
	return 0
}

// build makes a segment to the peer that the wrap sends by itself.
func (l *Leg) build(m made) []byte {
	m.class = l.txClass()
	return l.flow.build(make([]byte, maxMade), l.v6, false, m)
}

// setClass gives a packet of netstack's that class.
func (l *Leg) setClass(pkt *stack.PacketBuffer) {
	c := l.txClass()
	if c == 0 {
		return // as netstack has it
	}
	if l.v6 {
		ip := header.IPv6(pkt.NetworkHeader().Slice())
		_, label := ip.TOS()
		ip.SetTOS(c, label)
		return
	}
	ip := header.IPv4(pkt.NetworkHeader().Slice())
	ip.SetTOS(c, 0)
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
}

// urgent marks a segment in wire numbers as one before or within urgent data. It
// reports whether it has: then the kernel must not cut it, since it would give each
// piece the same distance to the end of the urgent data. mu is held.
func (l *Leg) urgent(tcp header.TCP) bool {
	m := l.mate.Load()
	if m == nil {
		return false
	}
	end := m.rxUrgent.Load()
	if end == 0 || tcp.Flags()&(header.TCPFlagSyn|header.TCPFlagRst) != 0 {
		return false
	}
	off, ok := l.txOffset(tcp.SequenceNumber())
	if !ok || off >= end || end-off > 0xffff {
		return false
	}
	markUrgent(tcp, uint16(end-off))
	return true
}

func markUrgent(tcp header.TCP, distance uint16) {
	tcp[18], tcp[19] = byte(distance>>8), byte(distance)
	tcp.SetFlags(uint8(tcp.Flags() &^ header.TCPFlagUrg))
	if distance > 0 {
		tcp.SetFlags(uint8(tcp.Flags() | header.TCPFlagUrg))
	}
}

// emitPieces writes the segments of a superpacket that is marked urgent one by one.
func (e *Engine) emitPieces(pkt *stack.PacketBuffer, piece int) {
	ip, tcp := pkt.NetworkHeader().Slice(), header.TCP(pkt.TransportHeader().Slice())
	payload := pkt.Data().AsRange().ToSlice()
	seq, flags := tcp.SequenceNumber(), tcp.Flags()
	distance := int(tcp[18])<<8 | int(tcp[19])
	for at := 0; at < len(payload); at += piece {
		end := min(at+piece, len(payload))
		b := make([]byte, 0, len(ip)+len(tcp)+end-at)
		b = append(append(append(b, ip...), tcp...), payload[at:end]...)
		t := header.TCP(b[len(ip):])
		t.SetSequenceNumber(seq + uint32(at))
		if end < len(payload) {
			t.SetFlags(uint8(flags &^ (header.TCPFlagFin | header.TCPFlagPsh)))
		}
		markUrgent(t, uint16(max(distance-at, 0)))
		finishHeaders(b, len(ip))
		e.emitMade(b)
	}
}

// finishHeaders sets length and checksums of a TCP segment without extension headers.
func finishHeaders(b []byte, ipLen int) {
	n := uint16(len(b) - ipLen)
	t := header.TCP(b[ipLen:])
	t.SetChecksum(0)
	if b[0]>>4 == 6 {
		ip := header.IPv6(b)
		ip.SetPayloadLength(n)
		x := header.PseudoHeaderChecksum(header.TCPProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), n)
		t.SetChecksum(^checksum.Checksum(t, x))
		return
	}
	ip := header.IPv4(b)
	ip.SetTotalLength(uint16(len(b)))
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
	x := header.PseudoHeaderChecksum(header.TCPProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), n)
	t.SetChecksum(^checksum.Checksum(t, x))
}
