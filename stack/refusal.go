package stack

import (
	"net/netip"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Notice is something that a peer asks of TCP and does not get, which somebody has to
// know: counters alone would not be looked at.
type Notice uint8

const (
	// NoticeSigned: signed segments (TCP MD5, RFC 2385; TCP-AO, RFC 5925).
	NoticeSigned Notice = iota
	// NoticeUrgent: urgent data on a connection whose bytes are not just passed on.
	NoticeUrgent
	numNotices
)

// noticePeriod: each notice is given so often at most.
const noticePeriod = time.Minute

// notices remembers when each was given last, nanoseconds after clock.born.
type notices [numNotices]atomic.Int64

// notice tells of a peer, unless it was told of one a moment ago.
func (e *Engine) notice(n Notice, peer netip.AddrPort) {
	if e.onNotice == nil {
		return
	}
	now, last := int64(e.now())+1, e.notices[n].Load()
	if (last == 0 || now-last >= int64(noticePeriod)) && e.notices[n].CompareAndSwap(last, now) {
		e.onNotice(n, peer)
	}
}

// Options of signed segments (IANA, TCP Option Kind Numbers).
const (
	optionMD5 = 19
	optionAO  = 29
)

// signed reports whether a SYN asks for signed segments.
func (s *segment) signed() (is bool) {
	walkOptions(s.tcp[header.TCPMinimumSize:], func(kind byte, _ []byte) {
		is = is || kind == optionMD5 || kind == optionAO
	})
	return is
}

// refuseSigned refuses a client at once that wants signed segments. It has no use for a
// RST without a signature (RFC 2385, section 4.1; RFC 5925, section 7.3), so it is told
// by ICMP as well, as by a host that has no such port.
func (e *Engine) refuseSigned(s *segment) {
	e.C.drop(DropSigned)
	e.notice(NoticeSigned, addrPort(s.flow.remote, s.flow.remotePort))
	e.answerStranger(s)
	if e.stack.AllowICMPMessage() {
		e.emitMade(s.unreachablePort())
	}
}

// unreachablePort makes the ICMP error that quotes the segment's headers (RFC 792, RFC 4443).
// It works on a copy, because what it makes of one would put each inbound segment on the heap.
func (s segment) unreachablePort() []byte {
	quoted := append(append([]byte(nil), s.ip...), s.tcp...)
	if !s.v6 {
		const head = header.IPv4MinimumSize + header.ICMPv4MinimumSize
		b := append(make([]byte, head), quoted...)
		header.IPv4(b).Encode(&header.IPv4Fields{
			TotalLength: uint16(len(b)), TTL: 64, Protocol: uint8(header.ICMPv4ProtocolNumber),
			SrcAddr: tcpip.AddrFrom4Slice(s.flow.local[12:]), DstAddr: tcpip.AddrFrom4Slice(s.flow.remote[12:]),
		})
		ip := header.IPv4(b)
		ip.SetChecksum(^ip.CalculateChecksum())
		icmp := header.ICMPv4(b[header.IPv4MinimumSize:])
		icmp.SetType(header.ICMPv4DstUnreachable)
		icmp.SetCode(header.ICMPv4PortUnreachable)
		icmp.SetChecksum(^checksum.Checksum(icmp, 0))
		return b
	}
	const head = header.IPv6MinimumSize + header.ICMPv6MinimumSize
	b := append(make([]byte, head), quoted...)
	src, dst := tcpip.AddrFrom16(s.flow.local), tcpip.AddrFrom16(s.flow.remote)
	header.IPv6(b).Encode(&header.IPv6Fields{
		PayloadLength: uint16(len(b) - header.IPv6MinimumSize), TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: 64, SrcAddr: src, DstAddr: dst,
	})
	icmp := header.ICMPv6(b[header.IPv6MinimumSize:])
	icmp.SetType(header.ICMPv6DstUnreachable)
	icmp.SetCode(header.ICMPv6PortUnreachable)
	icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: icmp, Src: src, Dst: dst}))
	return b
}
