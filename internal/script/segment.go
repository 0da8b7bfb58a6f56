package script

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"lockstep/tun"
)

// Flags of a TCP segment.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// flagLetters are tcpdump's, in the order of the bits.
const flagLetters = "FSRP.UEW"

// Opts are a segment's TCP options.
type Opts struct {
	MSS          int // 0: none
	WScale       int // -1: none
	SACKOK, TS   bool
	TSVal, TSEcr uint32
	SACK         [][2]uint32
	Ext          bool   // behind IPv6 extension headers that say nothing
	Raw          []byte // if set, these bytes instead (padded to a multiple of 4)
}

// NoOpts carries nothing.
var NoOpts = Opts{WScale: -1}

// Segment is one TCP segment with absolute numbers.
type Segment struct {
	Src, Dst netip.AddrPort
	Flags    uint8
	Seq, Ack uint32
	Win      uint16 // as in the header
	Urgent   uint16 // pointer, of what is encoded
	Opts     Opts
	Payload  []byte
	// Pieces is how many segments the kernel makes of it (superpackets); set by
	// Decode, with the payload of each but the last.
	Pieces, Piece int
	// Of the IPv4 header, set by Decode: whether routers may fragment it, and what
	// its fragments would be known by.
	Class       byte // DSCP and ECN; of IPv6 too
	MayFragment bool
	ID          uint16
}

// seqLen is the sequence space the segment takes.
func (s *Segment) seqLen() uint32 {
	n := uint32(len(s.Payload))
	if s.Flags&FIN != 0 {
		n++
	}
	if s.Flags&SYN != 0 {
		n++
	}
	return n
}

func (o *Opts) encode() []byte {
	if o.Raw != nil {
		b := append([]byte(nil), o.Raw...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
		return b
	}
	var b []byte
	if o.MSS > 0 {
		b = append(b, 2, 4, byte(o.MSS>>8), byte(o.MSS))
	}
	if o.SACKOK {
		b = append(b, 1, 1, 4, 2)
	}
	if o.TS {
		b = append(b, 1, 1, 8, 10)
		b = binary.BigEndian.AppendUint32(b, o.TSVal)
		b = binary.BigEndian.AppendUint32(b, o.TSEcr)
	}
	if o.WScale >= 0 {
		b = append(b, 1, 3, 3, byte(o.WScale))
	}
	if len(o.SACK) > 0 {
		b = append(b, 1, 1, 5, byte(2+8*len(o.SACK)))
		for _, r := range o.SACK {
			b = binary.BigEndian.AppendUint32(b, r[0])
			b = binary.BigEndian.AppendUint32(b, r[1])
		}
	}
	return b
}

var errOptions = errors.New("options lie about their length")

func (o *Opts) decode(b []byte) error {
	*o = NoOpts
	for len(b) > 0 {
		switch b[0] {
		case 0:
			return nil
		case 1:
			b = b[1:]
			continue
		}
		if len(b) < 2 || int(b[1]) < 2 || int(b[1]) > len(b) {
			return errOptions
		}
		v := b[2:b[1]]
		switch {
		case b[0] == 2 && len(v) == 2:
			o.MSS = int(binary.BigEndian.Uint16(v))
		case b[0] == 3 && len(v) == 1:
			o.WScale = int(v[0])
		case b[0] == 4 && len(v) == 0:
			o.SACKOK = true
		case b[0] == 8 && len(v) == 8:
			o.TS, o.TSVal, o.TSEcr = true, binary.BigEndian.Uint32(v), binary.BigEndian.Uint32(v[4:])
		case b[0] == 5 && len(v)%8 == 0:
			for ; len(v) > 0; v = v[8:] {
				o.SACK = append(o.SACK, [2]uint32{binary.BigEndian.Uint32(v), binary.BigEndian.Uint32(v[4:])})
			}
		default:
			return fmt.Errorf("option %d of %d bytes", b[0], len(v)+2)
		}
		b = b[b[1]:]
	}
	return nil
}

// Encode makes an IP packet with whole checksums.
func (s *Segment) Encode() []byte {
	opts := s.Opts.encode()
	tcp := make([]byte, 20, 20+len(opts)+len(s.Payload))
	binary.BigEndian.PutUint16(tcp, s.Src.Port())
	binary.BigEndian.PutUint16(tcp[2:], s.Dst.Port())
	binary.BigEndian.PutUint32(tcp[4:], s.Seq)
	binary.BigEndian.PutUint32(tcp[8:], s.Ack)
	tcp[12] = byte(5+len(opts)/4) << 4
	tcp[13] = s.Flags
	binary.BigEndian.PutUint16(tcp[14:], s.Win)
	binary.BigEndian.PutUint16(tcp[18:], s.Urgent)
	tcp = append(append(tcp, opts...), s.Payload...)
	ip := ipHeader(s.Src.Addr(), s.Dst.Addr(), 6, len(tcp))
	if s.Opts.Ext && s.Src.Addr().Is6() {
		// Hop-by-hop options with an unknown one that is passed over, and padding as
		// the destination's.
		ip = ipHeader(s.Src.Addr(), s.Dst.Addr(), 0, len(tcp)+16)
		ip = append(ip, 60, 0, 0x1e, 2, 1, 2, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0)
	}
	binary.BigEndian.PutUint16(tcp[16:], ^sum(tcp, pseudo(s.Src.Addr(), s.Dst.Addr(), 6, len(tcp))))
	return append(ip, tcp...)
}

func ipHeader(src, dst netip.Addr, proto byte, n int) []byte {
	if src.Is6() {
		b := make([]byte, 40)
		b[0], b[6], b[7] = 0x60, proto, 64
		binary.BigEndian.PutUint16(b[4:], uint16(n))
		copy(b[8:], src.AsSlice())
		copy(b[24:], dst.AsSlice())
		return b
	}
	b := make([]byte, 20)
	b[0], b[6], b[8], b[9] = 0x45, 0x40, 64, proto
	binary.BigEndian.PutUint16(b[2:], uint16(20+n))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^sum(b, 0))
	return b
}

// pseudo is the sum of the pseudo header (RFC 9293, 3.1).
func pseudo(src, dst netip.Addr, proto byte, n int) uint32 {
	b := append(append(src.AsSlice(), dst.AsSlice()...), 0, proto)
	return uint32(sum(b, uint32(n>>16)+uint32(n&0xffff)))
}

// sum is the Internet checksum before inversion (RFC 1071).
func sum(b []byte, x uint32) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		x += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		x += uint32(b[0]) << 8
	}
	for x > 0xffff {
		x = x>>16 + x&0xffff
	}
	return uint16(x)
}

// asks reports whether the appliance asks somebody of whom it knows nothing whether he has a
// connection: an octet or none from anywhere, with a stamp that is none (the engine's
// askClient, askServer).
func (s *Segment) asks() bool {
	return s.Flags == ACK && len(s.Payload) <= 1 && s.Opts.TS && s.Opts.TSVal == 1 && s.Opts.TSEcr == 0
}

// errOther marks a sound packet that is not TCP.
var errOther = errors.New("not TCP")

// Decode reads a packet of the appliance's as the kernel would, and is as strict
// as no kernel is: any header field that does not fit is an error.
func Decode(hdr, pkt []byte) (s Segment, err error) {
	var vh tun.VnetHeader
	if err := vh.Decode(hdr); err != nil {
		return s, err
	}
	if len(pkt) < 20 {
		return s, errors.New("shorter than an IP header")
	}
	var src, dst netip.Addr
	var proto byte
	ipLen := 20
	switch pkt[0] >> 4 {
	case 4:
		if pkt[0] != 0x45 || int(binary.BigEndian.Uint16(pkt[2:])) != len(pkt) {
			return s, fmt.Errorf("IPv4 header: first byte %#x, length %d of %d", pkt[0], binary.BigEndian.Uint16(pkt[2:]), len(pkt))
		}
		if sum(pkt[:20], 0) != 0xffff {
			return s, errors.New("IPv4 header checksum")
		}
		src, dst, proto = netip.AddrFrom4([4]byte(pkt[12:])), netip.AddrFrom4([4]byte(pkt[16:])), pkt[9]
		s.Class = pkt[1]
		s.MayFragment, s.ID = pkt[6]&0x40 == 0, binary.BigEndian.Uint16(pkt[4:])
	case 6:
		ipLen = 40
		if len(pkt) < 40 || int(binary.BigEndian.Uint16(pkt[4:]))+40 != len(pkt) {
			return s, errors.New("IPv6 payload length")
		}
		src, dst, proto = netip.AddrFrom16([16]byte(pkt[8:])), netip.AddrFrom16([16]byte(pkt[24:])), pkt[6]
		s.Class = pkt[0]<<4 | pkt[1]>>4
	default:
		return s, errors.New("IP version")
	}
	s.Src, s.Dst = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
	if proto != 6 {
		return s, errOther
	}
	return s, s.decodeTCP(&vh, pkt, ipLen)
}

func (s *Segment) decodeTCP(vh *tun.VnetHeader, pkt []byte, ipLen int) error {
	tcp := pkt[ipLen:]
	if len(tcp) < 20 {
		return errors.New("shorter than a TCP header")
	}
	off := int(tcp[12]>>4) * 4
	if off < 20 || off > len(tcp) || tcp[12]&0xf != 0 || tcp[13]&^(URG|0x1f) != 0 {
		return fmt.Errorf("TCP data offset %d, flags %#x", off, tcp[13])
	}
	s.Src = netip.AddrPortFrom(s.Src.Addr(), binary.BigEndian.Uint16(tcp))
	s.Dst = netip.AddrPortFrom(s.Dst.Addr(), binary.BigEndian.Uint16(tcp[2:]))
	s.Seq, s.Ack = binary.BigEndian.Uint32(tcp[4:]), binary.BigEndian.Uint32(tcp[8:])
	s.Flags, s.Win = tcp[13], binary.BigEndian.Uint16(tcp[14:])
	s.Payload = tcp[off:]
	if err := s.Opts.decode(tcp[20:off]); err != nil {
		return err
	}
	s.Pieces, s.Piece = 1, len(s.Payload)
	if vh.GSOType != tun.GSONone {
		want := uint8(tun.GSOTCPv4)
		if ipLen == 40 {
			want = tun.GSOTCPv6
		}
		n := int(vh.GSOSize)
		if vh.GSOType != want || vh.Flags&tun.FlagNeedsCsum == 0 || n == 0 || int(vh.HdrLen) != ipLen+off {
			return fmt.Errorf("virtio-net header %+v of a packet with %d header bytes", *vh, ipLen+off)
		}
		s.Pieces, s.Piece = (len(s.Payload)+n-1)/n, n
	}
	ps := pseudo(s.Src.Addr(), s.Dst.Addr(), 6, len(tcp))
	if vh.Flags&tun.FlagNeedsCsum == 0 {
		if sum(tcp, ps) != 0xffff {
			return errors.New("TCP checksum")
		}
		return nil
	}
	if int(vh.CsumStart) != ipLen || vh.CsumOffset != 16 {
		return fmt.Errorf("checksum at %d+%d of a packet with %d bytes of IP header", vh.CsumStart, vh.CsumOffset, ipLen)
	}
	if got := binary.BigEndian.Uint16(tcp[16:]); got != uint16(ps) {
		return fmt.Errorf("partial TCP checksum %#x, pseudo header's is %#x", got, ps)
	}
	return nil
}

// String is the segment in a log.
func (s *Segment) String() string {
	f := ""
	for i, c := range flagLetters {
		if s.Flags&(1<<i) != 0 {
			f += string(c)
		}
	}
	return fmt.Sprintf("%s>%s %s seq %d len %d(%d) ack %d win %d %+v", s.Src, s.Dst, f, s.Seq, len(s.Payload), s.Pieces, s.Ack, s.Win, s.Opts)
}
