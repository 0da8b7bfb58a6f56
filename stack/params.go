package stack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Params is all that must be known of a leg to continue it in another endpoint:
// what both sides said in the handshake, in wire numbers.
type Params struct {
	Local, Remote netip.AddrPort
	ISS, IRS      uint32 // our and the peer's initial sequence numbers
	MSS, OurMSS   uint16 // what each side announced, bytes
	PeerWS, OurWS int8   // window scales, -1: not negotiated
	SACK, TS      bool
	TSOffset      uint32 // our TSval = Engine.ClockMillis() + TSOffset
	PeerTS        uint32 // a recent TSval of the peer
	RTTMicros     uint32 // of the handshake; 0: not known
}

// defaultMSS is what a peer without the option can take (RFC 9293, 3.7.1).
const (
	defaultMSS4 = 536
	defaultMSS6 = 1220
)

// readSYN takes from a SYN or SYN-ACK what the peer offers. It reports false if
// the options lie about their length.
func (p *Params) readSYN(s *segment) bool {
	p.IRS = s.tcp.SequenceNumber()
	p.PeerWS, p.SACK, p.TS = -1, false, false
	p.MSS = defaultMSS4
	if s.v6 {
		p.MSS = defaultMSS6
	}
	return walkOptions(s.tcp[header.TCPMinimumSize:], func(kind byte, o []byte) {
		switch {
		case kind == header.TCPOptionMSS && len(o) == 4:
			// Small hosts (uIP) announce less than a hundred bytes and can take no
			// more. Below that floor there would be no room beside the options.
			if m := uint16(o[2])<<8 | uint16(o[3]); m > 0 {
				p.MSS = max(m, header.TCPMinimumSendMSS)
			}
		case kind == header.TCPOptionWS && len(o) == 3:
			p.PeerWS = int8(min(o[2], header.MaxWndScale)) // RFC 7323, 2.3
		case kind == header.TCPOptionSACKPermitted && len(o) == 2:
			p.SACK = true
		case kind == header.TCPOptionTS && len(o) == header.TCPOptionTSLength:
			p.TS = true
			p.PeerTS = be32(o[2:])
		}
	})
}
