package tun

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

const (
	ipv6HeaderLen = 40
	protoICMPv6   = 58

	ndSolicit   = 135
	ndAdvertise = 136
	ndFixedLen  = 24 // ICMPv6 header, flags or reserved word, target (RFC 4861, 4.3 and 4.4)

	ndOptSourceLL = 1
	ndOptTargetLL = 2

	naRouter    = 0x80
	naSolicited = 0x40
	naOverride  = 0x20
)

var (
	errNDNext      = errors.New("not ICMPv6 right behind the IPv6 header")
	errNDLength    = errors.New("IPv6 length does not fit")
	errNDHops      = errors.New("hop limit is not 255: came through a router")
	errNDType      = errors.New("neither neighbour solicitation nor advertisement")
	errNDCode      = errors.New("ICMPv6 code is not 0")
	errNDChecksum  = errors.New("ICMPv6 checksum wrong")
	errNDTarget    = errors.New("target is multicast")
	errNDOption    = errors.New("neighbour discovery option runs over")
	errNDSolicited = errors.New("solicited advertisement to a multicast address")
	errNDProbe     = errors.New("malformed duplicate address probe")
)

var (
	allNodes   = netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 15: 0x01})
	solicitPfx = [13]byte{0: 0xff, 1: 0x02, 11: 0x01, 12: 0xff} // ff02::1:ff00:0/104
)

// solicitedNode is the group that neighbours ask for a's hardware address
// (RFC 4291, 2.7.1).
func solicitedNode(a netip.Addr) netip.Addr {
	b, t := [16]byte{}, a.As16()
	copy(b[:], solicitPfx[:])
	copy(b[13:], t[13:])
	return netip.AddrFrom16(b)
}

// multicastHW maps an IPv6 group to its Ethernet address (RFC 2464, section 7).
func multicastHW(group netip.Addr) hwAddr {
	b := group.As16()
	return hwAddr{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// ndFrame is a neighbour solicitation or advertisement.
type ndFrame struct {
	ethDst, ethSrc hwAddr
	src, dst       netip.Addr
	typ            uint8
	flags          uint8 // of an advertisement
	target         netip.Addr
	// linkAddr is the source (solicitation) or target (advertisement) link
	// layer address option, where hasLink says there was one.
	linkAddr hwAddr
	hasLink  bool
}

// parseND does the validation of RFC 4861, 7.1.1 and 7.1.2.
func parseND(b []byte) (ndFrame, error) {
	var f ndFrame
	if len(b) < ethHeaderLen+ipv6HeaderLen+ndFixedLen {
		return f, errFrameShort
	}
	if binary.BigEndian.Uint16(b[12:]) != etherTypeV6 {
		return f, errFrameType
	}
	ip := b[ethHeaderLen:]
	if ip[0]>>4 != 6 || ip[6] != protoICMPv6 {
		return f, errNDNext
	}
	if ip[7] != 255 {
		return f, errNDHops
	}
	plen := int(binary.BigEndian.Uint16(ip[4:]))
	if plen < ndFixedLen || plen > len(ip)-ipv6HeaderLen {
		return f, errNDLength
	}
	icmp := ip[ipv6HeaderLen : ipv6HeaderLen+plen]
	f.ethDst, f.ethSrc = hwAddr(b[0:6]), hwAddr(b[6:12])
	f.src, f.dst = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
	f.typ, f.flags = icmp[0], icmp[4]
	f.target = netip.AddrFrom16([16]byte(icmp[8:24]))
	switch {
	case f.typ != ndSolicit && f.typ != ndAdvertise:
		return f, errNDType
	case icmp[1] != 0:
		return f, errNDCode
	case icmpv6Checksum(f.src, f.dst, icmp) != 0:
		return f, errNDChecksum
	case f.target.IsMulticast():
		return f, errNDTarget
	case f.ethSrc.multicast() || f.ethSrc == (hwAddr{}):
		return f, errBadSender
	}
	if err := f.parseOptions(icmp[ndFixedLen:]); err != nil {
		return f, err
	}
	return f, f.validate()
}

func (f *ndFrame) validate() error {
	if f.typ == ndAdvertise {
		if f.dst.IsMulticast() && f.flags&naSolicited != 0 {
			return errNDSolicited
		}
		return nil
	}
	if f.src.IsUnspecified() && (f.hasLink || f.dst != solicitedNode(f.target)) {
		return errNDProbe
	}
	return nil
}

func (f *ndFrame) parseOptions(o []byte) error {
	want := uint8(ndOptSourceLL)
	if f.typ == ndAdvertise {
		want = ndOptTargetLL
	}
	for len(o) > 0 {
		if len(o) < 2 {
			return errNDOption
		}
		n := int(o[1]) * 8 // the option's length counts units of 8 bytes; 0 is invalid
		if n == 0 || n > len(o) {
			return errNDOption
		}
		if o[0] == want && n == 8 {
			f.linkAddr, f.hasLink = hwAddr(o[2:8]), true
			if f.linkAddr.multicast() || f.linkAddr == (hwAddr{}) {
				return errBadSender
			}
		}
		o = o[n:]
	}
	return nil
}

// append encodes the frame, with hop limit 255 and the link-layer option that
// fits its type if hasLink is set.
func (f *ndFrame) append(b []byte) []byte {
	plen := ndFixedLen
	opt := byte(ndOptSourceLL)
	if f.typ == ndAdvertise {
		opt = ndOptTargetLL
	}
	if f.hasLink {
		plen += 8
	}
	src, dst, target := f.src.As16(), f.dst.As16(), f.target.As16()
	b = append(b, f.ethDst[:]...)
	b = append(b, f.ethSrc[:]...)
	b = binary.BigEndian.AppendUint16(b, etherTypeV6)
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(plen))
	b = append(b, protoICMPv6, 255)
	b = append(b, src[:]...)
	b = append(b, dst[:]...)
	start := len(b)
	b = append(b, f.typ, 0, 0, 0, f.flags, 0, 0, 0)
	b = append(b, target[:]...)
	if f.hasLink {
		b = append(b, opt, 1)
		b = append(b, f.linkAddr[:]...)
	}
	binary.BigEndian.PutUint16(b[start+2:], icmpv6Checksum(f.src, f.dst, b[start:]))
	return b
}

// advertise answers the solicitation f in the name of mac, or announces
// f.target when f is the zero frame with that target. Who asks from the
// unspecified address (duplicate address detection) is answered to all nodes
// and without the solicited flag (RFC 4861, 7.2.4). The router flag is set
// since an appliance forwards; clearing it would make hosts drop it as their
// default router (RFC 4861, 7.2.5). The address itself is the source, as it is
// assigned to the appliance even though its kernel does not know.
func (f *ndFrame) advertise(mac hwAddr) ndFrame {
	out := ndFrame{
		ethDst: multicastHW(allNodes), ethSrc: mac, src: f.target, dst: allNodes,
		typ: ndAdvertise, flags: naRouter | naOverride,
		target: f.target, linkAddr: mac, hasLink: true,
	}
	if f.src.IsValid() && !f.src.IsUnspecified() {
		out.ethDst, out.dst = f.ethSrc, f.src
		if f.hasLink {
			out.ethDst = f.linkAddr
		}
		out.flags |= naSolicited
	}
	return out
}

// icmpv6Checksum over pseudo header and message (RFC 8200, 8.1): the value to
// store while the field is 0, and 0 for a message whose checksum is right.
func icmpv6Checksum(src, dst netip.Addr, msg []byte) uint16 {
	s, d := src.As16(), dst.As16()
	sum := uint32(len(msg)) + protoICMPv6
	add := func(b []byte) {
		for len(b) >= 2 {
			sum += uint32(binary.BigEndian.Uint16(b))
			b = b[2:]
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	add(s[:])
	add(d[:])
	add(msg) // at most 64 KB: 2^15 words of 16 bits fit into 32
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
