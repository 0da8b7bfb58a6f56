package stack

import (
	"bytes"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"lockstep/splice"
)

// An ICMP error is believed only if it quotes a segment of ours that is in flight
// (RFC 5927, section 4.1): who does not see our segments would have to guess its
// sequence number.

// Least path MTUs, bytes. IPv6 demands 1280 of every link, and who says less is not
// believed (RFC 8201, section 4). Where an IPv4 path is narrower, packets stay at
// this size and routers may fragment them, as Linux has it (net.ipv4.route.min_pmtu):
// an error that says 68 would leave no room for payload.
const (
	minMTU4 = 552
	minMTU6 = 1280
)

// pathMTULife is how long a smaller path MTU is used; then a full-sized segment asks
// the path again (RFC 1191, section 6.3: not before 10 minutes; RFC 8201, section 4).
const pathMTULife = 10 * time.Minute

// icmpError is an ICMP error about a TCP segment of ours.
type icmpError struct {
	flow   flow   // of the quoted segment
	seq    uint32 // its sequence number
	tooBig bool   // fragmentation needed, packet too big
	mtu    uint32 // with tooBig, bytes
}

// parseICMPError reads an IP packet; ok is false if it is no ICMP error that quotes
// TCP ports and a sequence number.
func parseICMPError(b []byte) (q icmpError, ok bool) {
	e, ok := splice.ParseError(b)
	return icmpError{flow{e.Src, e.Dst, e.SrcPort, e.DstPort}, e.Seq, e.TooBig, e.MTU}, ok
}

// icmpChecksumOK verifies the checksum of an ICMP error, as hosts do (RFC 1122, 3.2.2);
// one that is not whole is refused.
func icmpChecksumOK(b []byte) bool {
	if b[0]>>4 == 6 {
		n := int(header.IPv6(b).PayloadLength())
		if len(b) < header.IPv6MinimumSize+n {
			return false
		}
		x := checksum.Combine(checksum.Checksum(b[8:40], 0), checksum.Combine(uint16(header.ICMPv6ProtocolNumber), uint16(n)))
		return checksum.Checksum(b[header.IPv6MinimumSize:][:n], x) == 0xffff
	}
	hl, n := int(b[0]&0xf)*4, int(header.IPv4(b).TotalLength())
	return hl <= n && n <= len(b) && checksum.Checksum(b[hl:n], 0) == 0xffff
}

// icmpAcceptable returns the leg that an ICMP error is about, or nil if it is to be
// refused: no leg sent the quoted segment, or it is not in flight.
func (e *Engine) icmpAcceptable(q *icmpError) *Leg {
	l := e.table.get(&q.flow)
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == stDialing {
		if q.seq != l.p.ISS {
			return nil
		}
		return l
	}
	off, ok := l.txOffset(q.seq)
	if !ok || off < l.txUna || off > l.ackLimit() {
		return nil
	}
	return l
}

// receiveOther takes a packet that is not TCP: an error about one of our segments, or
// something for a virtual address. Everything else goes on its way.
func (e *Engine) receiveOther(b, hdr []byte, pkt *stack.PacketBuffer) {
	v6, owned := b[0]>>4 == 6, e.owned[destination(b)]
	q, isError := parseICMPError(b)
	switch {
	case isError && e.splicedError(&q.flow, b):
	case isError && (owned || e.table.get(&q.flow) != nil):
		if !icmpChecksumOK(b) {
			e.C.drop(DropChecksum)
		} else if e.receiveICMPError(&q, v6) {
			e.deliver(v6, pkt)
		}
	case owned:
		e.deliver(v6, pkt)
	default:
		e.bypass(hdr, pkt)
	}
}

// ReceiveError takes a copy of an ICMP error that the kernel routes on: to a client,
// whose address the segments to its server have. b is not kept.
func (e *Engine) ReceiveError(b []byte) {
	if len(b) < header.IPv4MinimumSize || !e.Active() {
		return
	}
	q, ok := parseICMPError(b)
	if ok && e.passed(&q.flow).Spliced != nil {
		e.splicedError(&q.flow, bytes.Clone(b))
		return
	}
	if !ok || e.table.get(&q.flow) == nil {
		return // about somebody else's segment
	}
	if !icmpChecksumOK(b) {
		e.C.drop(DropChecksum)
		return
	}
	if v6 := b[0]>>4 == 6; e.receiveICMPError(&q, v6) {
		e.inject(bytes.Clone(b), v6)
	}
}

// receiveICMPError deals with an ICMP error about a TCP segment of ours. It reports
// whether netstack is to hear of it.
func (e *Engine) receiveICMPError(q *icmpError, v6 bool) (deliver bool) {
	l := e.icmpAcceptable(q)
	if l == nil || v6 && q.tooBig && q.mtu < minMTU6 {
		e.C.drop(DropICMP)
		return false
	}
	if q.tooBig {
		l.narrow(q.mtu)
	}
	return !q.tooBig
}

// narrow notes that the path takes packets of no more than mtu bytes. The wrap has
// them made smaller on their way out, not netstack, which never makes them larger
// again. What was lost is sent again after netstack's time-out.
func (l *Leg) narrow(mtu uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.engine.now()
	if !l.v6 && mtu < minMTU4 {
		l.fragment, mtu = true, minMTU4
	}
	if l.pathMTU != 0 && now < l.pathUntil && mtu >= uint32(l.pathMTU) {
		return // a late error about a segment from before
	}
	l.pathMTU, l.pathUntil = uint16(min(mtu, 0xffff)), now+pathMTULife
}

// pieceSize is how much payload a segment with headers of n bytes may carry; 0: as
// much as netstack gives it. mu is held.
func (l *Leg) pieceSize(n int) uint16 {
	if l.pathMTU == 0 {
		return 0
	}
	if l.engine.now() >= l.pathUntil {
		l.pathMTU, l.fragment = 0, false
		return 0
	}
	return uint16(max(int(l.pathMTU)-n, 1))
}

// mayFragment lets routers fragment a packet of netstack's, with an identification
// that is not soon used again (RFC 6864); the kernel counts up from it when it cuts a
// superpacket into pieces.
func (e *Engine) mayFragment(pkt *stack.PacketBuffer, piece uint16) {
	n := uint32(1)
	if size := uint32(pkt.Data().Size()); piece > 0 {
		n += size / uint32(piece)
	}
	ip := header.IPv4(pkt.NetworkHeader().Slice())
	ip.SetFlagsFragmentOffset(ip.Flags()&^header.IPv4FlagDontFragment, 0)
	ip.SetID(uint16(e.ipID.Add(n) - n))
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
}
