package stack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"lockstep/splice"
)

// segment is a parsed view of one inbound packet: slices into its first buffer.
type segment struct {
	flow    flow
	ip      []byte
	tcp     header.TCP // header with options
	v6      bool
	ipLen   int // IP header bytes
	payload int // TCP payload bytes
}

type parseResult uint8

const (
	parsedTCP parseResult = iota
	parsedOther
	parsedFragment
	parsedExtension // IPv6 extension headers that a receiver must not pass over
	parsedBad
)

// parse reads the headers at the start of an IP packet of total bytes, of which
// b is the first contiguous part (it must hold all headers: the reader sees to
// that). It trusts no length.
func (s *segment) parse(b []byte, total int) parseResult {
	if len(b) < header.IPv4MinimumSize {
		return parsedBad
	}
	switch b[0] >> 4 {
	case 4:
		return s.parse4(b, total)
	case 6:
		return s.parse6(b, total)
	}
	return parsedBad
}

func (s *segment) parse4(b []byte, total int) parseResult {
	ip := header.IPv4(b)
	hl := int(ip.HeaderLength())
	if hl < header.IPv4MinimumSize || hl > len(b) || int(ip.TotalLength()) != total || total < hl {
		return parsedBad
	}
	if ip.Protocol() != uint8(header.TCPProtocolNumber) {
		return parsedOther
	}
	if ip.More() || ip.FragmentOffset() != 0 {
		return parsedFragment
	}
	s.v6 = false
	s.flow.local = v4in6(b[16:20])
	s.flow.remote = v4in6(b[12:16])
	return s.parseTCP(b, hl, total)
}

func (s *segment) parse6(b []byte, total int) parseResult {
	if len(b) < header.IPv6MinimumSize {
		return parsedBad
	}
	ip := header.IPv6(b)
	if int(ip.PayloadLength())+header.IPv6MinimumSize != total {
		return parsedBad
	}
	ipLen, res := extensions(b, ip.NextHeader())
	if res != parsedTCP {
		return res
	}
	s.v6 = true
	copy(s.flow.local[:], b[24:40])
	copy(s.flow.remote[:], b[8:24])
	return s.parseTCP(b, ipLen, total)
}

// maxExtensions bounds how many extension headers are passed over.
const maxExtensions = 8

// extensions passes over the extension headers before TCP, of which next is the first
// header's kind, and returns where TCP begins. netstack looks at them again; what it
// would discard is found here, so that it is counted.
func extensions(b []byte, next uint8) (off int, res parseResult) {
	off = header.IPv6MinimumSize
	ours := true // nothing on the way here forbids passing over it
	for range maxExtensions {
		switch kind := header.IPv6ExtensionHeaderIdentifier(next); {
		case next == uint8(header.TCPProtocolNumber) && ours:
			return off, parsedTCP
		case next == uint8(header.TCPProtocolNumber):
			return off, parsedExtension
		case kind == header.IPv6FragmentExtHdrIdentifier:
			return off, parsedFragment
		case kind != header.IPv6HopByHopOptionsExtHdrIdentifier && kind != header.IPv6DestinationOptionsExtHdrIdentifier && kind != header.IPv6RoutingExtHdrIdentifier:
			return off, parsedOther
		}
		if len(b) < off+8 {
			return off, parsedBad
		}
		n := 8 * (1 + int(b[off+1])) // RFC 8200, 4.3
		if len(b) < off+n {
			return off, parsedBad
		}
		if next == uint8(header.IPv6RoutingExtHdrIdentifier) {
			ours = ours && b[off+3] == 0 // segments left: else we are a hop of its route
		} else {
			ours = ours && skippable(b[off+2:off+n])
		}
		next, off = b[off], off+n
	}
	return off, parsedExtension
}

// skippable reports whether a receiver that knows none of the options passes over them
// all: the two highest bits of their kind say so (RFC 8200, 4.2).
func skippable(opts []byte) bool {
	for len(opts) > 0 {
		if opts[0] == 0 { // Pad1
			opts = opts[1:]
			continue
		}
		if len(opts) < 2 || len(opts) < 2+int(opts[1]) || opts[0]&0xc0 != 0 {
			return false
		}
		opts = opts[2+int(opts[1]):]
	}
	return true
}

func (s *segment) parseTCP(b []byte, ipLen, total int) parseResult {
	if len(b) < ipLen+header.TCPMinimumSize {
		return parsedBad
	}
	tcp := header.TCP(b[ipLen:])
	off := int(tcp.DataOffset())
	if off < header.TCPMinimumSize || off > len(tcp) || ipLen+off > total {
		return parsedBad
	}
	s.ip, s.ipLen = b[:ipLen], ipLen
	s.tcp = tcp[:off]
	s.payload = total - ipLen - off
	s.flow.localPort = tcp.DestinationPort()
	s.flow.remotePort = tcp.SourcePort()
	return parsedTCP
}

func v4in6(b []byte) (a [16]byte) {
	a[10], a[11] = 0xff, 0xff
	copy(a[12:], b)
	return a
}

// segLen is the sequence space the segment takes (RFC 9293, section 3.4).
func (s *segment) segLen() uint32 {
	n := uint32(s.payload)
	if s.tcp.Flags()&header.TCPFlagFin != 0 {
		n++
	}
	return n
}

// dropPayload makes the segment one without payload that begins where it ended. The
// TCP checksum stays: it was checked before.
func (s *segment) dropPayload(pkt *stack.PacketBuffer) {
	s.tcp.SetSequenceNumber(s.tcp.SequenceNumber() + uint32(s.payload))
	pkt.Data().CapLength(s.ipLen + len(s.tcp))
	s.payload = 0
	if s.v6 {
		header.IPv6(s.ip).SetPayloadLength(uint16(s.ipLen - header.IPv6MinimumSize + len(s.tcp)))
		return
	}
	ip := header.IPv4(s.ip)
	ip.SetTotalLength(uint16(s.ipLen + len(s.tcp)))
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
}

// options walks a TCP header's options. It returns false if one of them lies
// about its length. visit gets the kind and the whole option, kind byte first.
func walkOptions(opts []byte, visit func(kind byte, opt []byte)) bool {
	for i := 0; i < len(opts); {
		switch opts[i] {
		case header.TCPOptionEOL:
			return true
		case header.TCPOptionNOP:
			i++
			continue
		}
		if i+1 >= len(opts) {
			return false
		}
		n := int(opts[i+1])
		if n < 2 || i+n > len(opts) {
			return false
		}
		visit(opts[i], opts[i:i+n])
		i += n
	}
	return true
}

// locateOptions is splice's, which sees them, too.
func locateOptions(opts []byte) (ts, sack int, ok bool) { return splice.LocateOptions(opts) }

// made describes a segment that the wrap makes itself.
type made struct {
	flags    header.TCPFlags
	seq, ack uint32
	window   uint16
	opts     []byte
	class    uint8 // DSCP, in its place
}

// build lays an IP packet without payload into b and returns it. fromPeer makes
// it a packet of the peer to us (a private handshake), otherwise it is ours.
// Checksums are whole: such packets are rare.
func (f *flow) build(b []byte, v6, fromPeer bool, m made) []byte {
	src, dst := f.local, f.remote
	sp, dp := f.localPort, f.remotePort
	if fromPeer {
		src, dst, sp, dp = dst, src, dp, sp
	}
	return splice.Build(b, v6, &src, &dst, sp, dp, splice.Made{
		Flags: m.flags, Seq: m.seq, Ack: m.ack, Window: m.window, Opts: m.opts, Class: m.class,
	})
}

// maxMade bounds what build writes.
const maxMade = splice.MaxMade

// synOptions writes the options of a SYN or SYN-ACK in Linux's order.
func synOptions(b []byte, mss uint16, ws int8, sack, ts bool, tsVal, tsEcr uint32) []byte {
	n := header.EncodeMSSOption(uint32(mss), b)
	switch {
	case ts && sack:
		n += header.EncodeSACKPermittedOption(b[n:])
		n += header.EncodeTSOption(tsVal, tsEcr, b[n:])
	case ts:
		n += header.EncodeNOP(b[n:])
		n += header.EncodeNOP(b[n:])
		n += header.EncodeTSOption(tsVal, tsEcr, b[n:])
	case sack:
		n += header.EncodeNOP(b[n:])
		n += header.EncodeNOP(b[n:])
		n += header.EncodeSACKPermittedOption(b[n:])
	}
	if ws >= 0 {
		n += header.EncodeNOP(b[n:])
		n += header.EncodeWSOption(int(ws), b[n:])
	}
	return b[:n]
}

// tsOption writes NOP NOP TS, the 12 bytes every later segment carries.
func tsOption(b []byte, val, ecr uint32) []byte {
	n := header.EncodeNOP(b)
	n += header.EncodeNOP(b[n:])
	n += header.EncodeTSOption(val, ecr, b[n:])
	return b[:n]
}

// addrPort turns one side of a flow into the public form.
func addrPort(a [16]byte, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(a).Unmap(), port)
}
