package splice

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// MaxMade bounds what is made here: IPv6 and TCP headers with full options, bytes.
const MaxMade = header.IPv6MinimumSize + header.TCPHeaderMaximumSize

// Made describes a segment without payload that is made and not passed on.
type Made struct {
	Flags    header.TCPFlags
	Seq, Ack uint32
	Window   uint16
	Opts     []byte
	Class    uint8 // DSCP, in its place
}

// Build lays an IP packet without payload into b and returns it. Addresses are in IPv6's
// form. Checksums are whole: such packets are rare.
func Build(b []byte, v6 bool, src, dst *[16]byte, srcPort, dstPort uint16, m Made) []byte {
	tcpLen := header.TCPMinimumSize + len(m.Opts)
	ipLen := header.IPv4MinimumSize
	if v6 {
		ipLen = header.IPv6MinimumSize
	}
	b = b[:ipLen+tcpLen]
	clear(b)
	var xsum uint16
	if v6 {
		b[0], b[1] = 6<<4|m.Class>>4, m.Class<<4
		binary.BigEndian.PutUint16(b[4:], uint16(tcpLen))
		b[6] = uint8(header.TCPProtocolNumber)
		b[7] = 64
		copy(b[8:24], src[:])
		copy(b[24:40], dst[:])
		xsum = checksum.Checksum(b[8:40], 0)
	} else {
		b[0], b[1] = 4<<4|5, m.Class
		binary.BigEndian.PutUint16(b[2:], uint16(ipLen+tcpLen))
		b[6] = 0x40 // DF
		b[8] = 64
		b[9] = uint8(header.TCPProtocolNumber)
		copy(b[12:16], src[12:])
		copy(b[16:20], dst[12:])
		ip := header.IPv4(b)
		ip.SetChecksum(^ip.CalculateChecksum())
		xsum = checksum.Checksum(b[12:20], 0)
	}
	tcp := header.TCP(b[ipLen:])
	tcp.Encode(&header.TCPFields{
		SrcPort: srcPort, DstPort: dstPort, SeqNum: m.Seq, AckNum: m.Ack,
		DataOffset: uint8(tcpLen), Flags: m.Flags, WindowSize: m.Window,
	})
	copy(tcp[header.TCPMinimumSize:], m.Opts)
	xsum = checksum.Combine(xsum, uint16(header.TCPProtocolNumber))
	xsum = checksum.Combine(xsum, uint16(tcpLen))
	tcp.SetChecksum(^tcp.CalculateChecksum(xsum))
	return b
}
