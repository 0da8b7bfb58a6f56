package splice

import (
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// minMTU6 is what IPv6 demands of every link, bytes: who says less is not believed (RFC 8201, 4).
const minMTU6 = 1280

// Quote is what an ICMP error says, and of which TCP segment.
type Quote struct {
	Src, Dst         [16]byte // of the quoted segment; IPv4 addresses in IPv6's form
	SrcPort, DstPort uint16
	Seq              uint32
	TooBig           bool   // fragmentation needed, packet too big
	MTU              uint32 // with TooBig, bytes; 0: a router that does not say (RFC 1191, section 5)

	unreachable bool
	icmp, inner int // where the message and the quoted packet begin
	tcp         int // where the quoted TCP header begins
}

// ParseError reads an IP packet; ok is false if it is no ICMP error that quotes TCP ports and a
// sequence number.
func ParseError(b []byte) (q Quote, ok bool) {
	if len(b) < header.IPv4MinimumSize {
		return q, false
	}
	if b[0]>>4 == 6 {
		return parseError6(b)
	}
	q.icmp = int(b[0]&0xf) * 4
	q.inner = q.icmp + header.ICMPv4MinimumSize
	if b[0]>>4 != 4 || q.icmp < header.IPv4MinimumSize || len(b) < q.inner || b[9] != uint8(header.ICMPv4ProtocolNumber) {
		return q, false
	}
	switch header.ICMPv4Type(b[q.icmp]) {
	case header.ICMPv4DstUnreachable:
		q.TooBig = header.ICMPv4Code(b[q.icmp+1]) == header.ICMPv4FragmentationNeeded
		q.unreachable = !q.TooBig
		q.MTU = be32(b[q.icmp+4:]) & 0xffff
	case header.ICMPv4TimeExceeded, header.ICMPv4ParamProblem:
	default:
		return q, false
	}
	in := b[q.inner:]
	if len(in) < header.IPv4MinimumSize || in[9] != uint8(header.TCPProtocolNumber) || header.IPv4(in).FragmentOffset() != 0 {
		return q, false
	}
	q.Src, q.Dst = as4in6([16]byte{12: in[12], in[13], in[14], in[15]}), as4in6([16]byte{12: in[16], in[17], in[18], in[19]})
	return q, q.quote(b, int(in[0]&0xf)*4)
}

func parseError6(b []byte) (q Quote, ok bool) {
	q.icmp, q.inner = header.IPv6MinimumSize, header.IPv6MinimumSize+header.ICMPv6MinimumSize
	if len(b) < q.inner || b[6] != uint8(header.ICMPv6ProtocolNumber) {
		return q, false
	}
	switch header.ICMPv6Type(b[q.icmp]) {
	case header.ICMPv6PacketTooBig:
		q.TooBig, q.MTU = true, be32(b[q.icmp+4:])
	case header.ICMPv6DstUnreachable:
		q.unreachable = true
	case header.ICMPv6TimeExceeded, header.ICMPv6ParamProblem:
	default:
		return q, false
	}
	in := b[q.inner:]
	if len(in) < header.IPv6MinimumSize || in[6] != uint8(header.TCPProtocolNumber) {
		return q, false // our segments have no extension headers
	}
	copy(q.Src[:], in[8:24])
	copy(q.Dst[:], in[24:40])
	return q, q.quote(b, header.IPv6MinimumSize)
}

// quote takes ports and sequence number from the quoted packet, whose first eight
// bytes after the IP header are there at least (RFC 792).
func (q *Quote) quote(b []byte, ipLen int) bool {
	q.tcp = q.inner + ipLen
	if ipLen < header.IPv4MinimumSize || len(b) < q.tcp+8 {
		return false
	}
	in := b[q.tcp:]
	q.SrcPort, q.DstPort, q.Seq = be16(in), be16(in[2:]), be32(in[4:])
	return true
}

// ForwardError takes a whole ICMP error about a segment of sender's, quoted as we have passed it on,
// and translates it in place for sender: the error's addresses and the quoted packet's (RFC 5508, 4.2). Its checksum
// was verified. It is believed only if it quotes what is in flight (RFC 5927, 4.1); while it is not known
// what that is, sender judges alone, as it does anyhow.
//
// A client hears of all as from the virtual address, behind which no network is known to it; a server that
// knows clients by our address from that.
func (c *Conn) ForwardError(sender Side, b []byte) Verdict {
	q, ok := ParseError(b)
	f, to := &c.server, &c.client // as quoted, as sender knows it
	if sender == Server {
		f, to = &c.client, &c.server
	}
	if !ok || q.Src != f.local || q.Dst != f.remote || q.SrcPort != f.localPort || q.DstPort != f.remotePort ||
		!wholeIP(b, c.v6) || !c.inFlight(sender, q.Seq) || q.TooBig && c.v6 && q.MTU < minMTU6 {
		return Verdict{Drop: DropICMP}
	}
	c.requote(sender, b, &q, to)
	refused := c.state == Opening && !c.located && sender == Client && q.unreachable
	outer := flow{local: to.local, remote: to.remote}
	if via := sourceOf(b, c.v6); sender == Server && c.server.local == c.client.remote && via != f.remote {
		outer.local = via // clients' networks are known to this server
	}
	readdressError(b, &q, &outer, c.v6)
	if refused {
		return Verdict{Event: EventRefused}
	}
	return Verdict{}
}

// inFlight reports whether a segment of sender's that begins at seq may be on its way.
func (c *Conn) inFlight(sender Side, seq uint32) bool {
	e, r := &c.ends[sender], &c.ends[sender.Other()]
	if c.state == Opening && seq == e.isn {
		return sender == Client && c.offer.valid || c.located
	}
	return !c.located && c.state != Opening || c.located && !after(r.ack, seq) && !after(seq, e.next)
}

// requote makes the quoted packet one that sender has sent.
func (c *Conn) requote(sender Side, b []byte, q *Quote, to *flow) {
	addr, port := c.diff.addr, c.diff.port // what translating has added
	if sender == Client {
		addr, port = ^addr, ^port
	}
	in, tcp := b[q.inner:q.tcp], b[q.tcp:]
	was := flow{local: to.remote, remote: to.local} // readdress puts local first; sender is the remote here
	c.readdress(in, &was, addr)
	put16(tcp, to.remotePort)
	put16(tcp[2:], to.localPort)
	if len(tcp) >= header.TCPChecksumOffset+2 {
		sum := tcp[header.TCPChecksumOffset:]
		put16(sum, ^add16(^be16(sum), add16(addr, port)))
	}
}

// wholeIP reports whether b is as long as its header says.
func wholeIP(b []byte, v6 bool) bool {
	if v6 {
		return int(be16(b[4:]))+header.IPv6MinimumSize == len(b)
	}
	return int(be16(b[2:])) == len(b)
}

func sourceOf(b []byte, v6 bool) [16]byte {
	if v6 {
		return [16]byte(b[8:24])
	}
	return as4in6([16]byte{12: b[12], b[13], b[14], b[15]})
}

// readdressError gives an ICMP error its addresses and its checksums: it is short, and rare.
func readdressError(b []byte, q *Quote, f *flow, v6 bool) {
	msg := b[q.icmp:]
	put16(msg[2:], 0)
	if v6 {
		copy(b[8:24], f.local[:])
		copy(b[24:40], f.remote[:])
		x := checksum.Combine(checksum.Checksum(b[8:40], 0), checksum.Combine(uint16(header.ICMPv6ProtocolNumber), uint16(len(msg))))
		put16(msg[2:], ^checksum.Checksum(msg, x))
		return
	}
	copy(b[12:16], f.local[12:])
	copy(b[16:20], f.remote[12:])
	put16(b[10:], 0)
	put16(b[10:], ^sumOf(b[:q.icmp]))
	put16(msg[2:], ^checksum.Checksum(msg, 0))
}
