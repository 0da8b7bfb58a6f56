package splice

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// What an outage of the network between us and one end looks like from here, and what is said when it is over.

// Silence is how long an end must have said nothing for what comes again for it to be suspicious: Linux's least
// retransmission time-out.
const Silence = 200 * time.Millisecond

// MaxError bounds an ICMP error that is made here, bytes.
const MaxError = header.IPv6MinimumSize + header.ICMPv6MinimumSize + MaxMade

// unanswered reports whether a segment has passed before, takes sequence space that its receiver has not acknowledged, and
// that one has been silent.
func (c *Conn) unanswered(s *segment) bool {
	e, r := &c.ends[s.from], &c.ends[s.from.Other()]
	if s.now-r.heard < Silence || r.heard == 0 && s.now-c.moved < Silence { // it has not had to say anything for longer
		return false
	}
	if s.flags&flagSYN != 0 {
		return c.state == Opening && s.seq == e.isn && (s.from == Client && c.offer.valid || c.located)
	}
	return c.located && s.end != s.seq && !after(s.end, e.next) && after(s.end, r.ack)
}

// Lacks reports whether something has been sent to that end that it has not acknowledged.
func (c *Conn) Lacks(end Side) bool {
	return c.located && after(c.ends[end.Other()].next, c.ends[end].ack)
}

// Repeat makes the newest acknowledgement that an end has had from the other one once more, in buf of MaxMade bytes: it
// may have been lost. Without its echo: what it acknowledges was sent before an outage, and would be taken for a round trip.
func (c *Conn) Repeat(to Side, buf []byte) []byte {
	var opts [12]byte
	e, r := &c.ends[to], &c.ends[to.Other()]
	m := Made{Flags: header.TCPFlagAck, Seq: e.ack, Ack: r.ack, Window: r.window, Opts: c.stamps(to, opts[:])}
	if at, ok := timestamp(m.Opts); ok {
		clear(m.Opts[at+4 : at+8])
	}
	return c.to(to, buf, m)
}

// Unreachable makes the ICMP error "host unreachable", in buf of MaxError bytes, that quotes the first segment of an end
// that is not acknowledged. An end that has sent it again takes back one doubling of its time-out, and sends
// it at once if that is over (RFC 6069, section 4); to others it is a soft error, which ends no connection (RFC 1122,
// 4.2.3.9). What it quotes must be what the end has had acknowledged last: see Repeat.
func (c *Conn) Unreachable(to Side, buf []byte) []byte {
	f := &c.client
	if to == Server {
		f = &c.server
	}
	r := &c.ends[to.Other()]
	var quoted [MaxMade]byte
	q := Build(quoted[:], c.v6, &f.remote, &f.local, f.remotePort, f.localPort, Made{
		Flags: header.TCPFlagAck, Seq: r.ack, Ack: c.ends[to].ack, Window: c.ends[to].window,
	})
	return BuildUnreachable(buf, c.v6, &f.local, &f.remote, q)
}

// BuildUnreachable lays the ICMP error "host unreachable" into b, of MaxError bytes, and returns it. Addresses are in
// IPv6's form; quoted is the packet that it is about.
func BuildUnreachable(b []byte, v6 bool, src, dst *[16]byte, quoted []byte) []byte {
	if v6 {
		const icmp = header.IPv6MinimumSize
		b = b[:icmp+header.ICMPv6MinimumSize+len(quoted)]
		clear(b)
		b[0], b[6], b[7] = 6<<4, uint8(header.ICMPv6ProtocolNumber), 64
		put16(b[4:], uint16(len(b)-icmp))
		copy(b[8:24], src[:])
		copy(b[24:40], dst[:])
		b[icmp], b[icmp+1] = uint8(header.ICMPv6DstUnreachable), uint8(header.ICMPv6NetworkUnreachable)
		copy(b[icmp+header.ICMPv6MinimumSize:], quoted)
		x := checksum.Checksum(b[8:40], uint16(header.ICMPv6ProtocolNumber))
		put16(b[icmp+2:], ^checksum.Checksum(b[icmp:], checksum.Combine(x, uint16(len(b)-icmp))))
		return b
	}
	const icmp = header.IPv4MinimumSize
	b = b[:icmp+header.ICMPv4MinimumSize+len(quoted)]
	clear(b)
	b[0], b[8], b[9] = 4<<4|5, 64, uint8(header.ICMPv4ProtocolNumber)
	put16(b[2:], uint16(len(b)))
	copy(b[12:16], src[12:])
	copy(b[16:20], dst[12:])
	ip := header.IPv4(b)
	ip.SetChecksum(^ip.CalculateChecksum())
	b[icmp], b[icmp+1] = uint8(header.ICMPv4DstUnreachable), uint8(header.ICMPv4HostUnreachable)
	copy(b[icmp+header.ICMPv4MinimumSize:], quoted)
	put16(b[icmp+2:], ^checksum.Checksum(b[icmp:], 0))
	return b
}
