package tun

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// hwAddr is an Ethernet address. Other link types are refused by NewAnnouncer.
type hwAddr [6]byte

var broadcastHW = hwAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func (h hwAddr) multicast() bool { return h[0]&1 != 0 }

const (
	ethHeaderLen = 14
	etherTypeARP = 0x0806
	etherTypeV6  = 0x86dd

	arpLen     = 28 // Ethernet and IPv4 (RFC 826)
	arpRequest = 1
	arpReply   = 2
)

var (
	errFrameShort = errors.New("frame cut off")
	errFrameType  = errors.New("unexpected EtherType")
	errARPFormat  = errors.New("not Ethernet and IPv4 ARP")
	errARPOp      = errors.New("neither ARP request nor reply")
	errBadSender  = errors.New("sender has no unicast hardware address")
)

// arpFrame is an ARP packet with the Ethernet addresses that carried it.
type arpFrame struct {
	ethDst, ethSrc hwAddr
	op             uint16
	senderHW       hwAddr
	senderIP       netip.Addr
	targetHW       hwAddr
	targetIP       netip.Addr
}

// parseARP accepts any padding behind the packet: Ethernet's minimum is 60 bytes.
func parseARP(b []byte) (arpFrame, error) {
	var f arpFrame
	if len(b) < ethHeaderLen+arpLen {
		return f, errFrameShort
	}
	if binary.BigEndian.Uint16(b[12:]) != etherTypeARP {
		return f, errFrameType
	}
	a := b[ethHeaderLen:]
	if binary.BigEndian.Uint16(a) != 1 || binary.BigEndian.Uint16(a[2:]) != 0x0800 || a[4] != 6 || a[5] != 4 {
		return f, errARPFormat
	}
	f.ethDst, f.ethSrc = hwAddr(b[0:6]), hwAddr(b[6:12])
	f.op = binary.BigEndian.Uint16(a[6:])
	f.senderHW, f.senderIP = hwAddr(a[8:14]), netip.AddrFrom4([4]byte(a[14:18]))
	f.targetHW, f.targetIP = hwAddr(a[18:24]), netip.AddrFrom4([4]byte(a[24:28]))
	if f.op != arpRequest && f.op != arpReply {
		return f, errARPOp
	}
	if f.senderHW.multicast() || f.senderHW == (hwAddr{}) {
		return f, errBadSender
	}
	return f, nil
}

// append encodes the frame. Both IP addresses must be IPv4.
func (f *arpFrame) append(b []byte) []byte {
	b = append(b, f.ethDst[:]...)
	b = append(b, f.ethSrc[:]...)
	b = binary.BigEndian.AppendUint16(b, etherTypeARP)
	b = binary.BigEndian.AppendUint16(b, 1)      // hardware: Ethernet
	b = binary.BigEndian.AppendUint16(b, 0x0800) // protocol: IPv4
	b = append(b, 6, 4)
	b = binary.BigEndian.AppendUint16(b, f.op)
	sip, tip := f.senderIP.As4(), f.targetIP.As4()
	b = append(b, f.senderHW[:]...)
	b = append(b, sip[:]...)
	b = append(b, f.targetHW[:]...)
	return append(b, tip[:]...)
}

// reply answers the request f in the name of mac. It goes straight to the
// asker, as RFC 826 has it; a probe's all-zero sender address is repeated
// (RFC 5227, 2.1.1).
func (f *arpFrame) reply(mac hwAddr) arpFrame {
	return arpFrame{
		ethDst: f.senderHW, ethSrc: mac, op: arpReply,
		senderHW: mac, senderIP: f.targetIP,
		targetHW: f.senderHW, targetIP: f.senderIP,
	}
}

// gratuitousARP announces that ip is at mac. Some stacks update their caches
// only from requests, others only from replies, so both are sent
// (RFC 5227, section 3, explains why the request is the better known one).
func gratuitousARP(op uint16, mac hwAddr, ip netip.Addr) arpFrame {
	f := arpFrame{
		ethDst: broadcastHW, ethSrc: mac, op: op,
		senderHW: mac, senderIP: ip, targetIP: ip,
	}
	if op == arpReply {
		// RFC 5944, 4.6: in a gratuitous reply the target is the sender. Linux
		// takes it for gratuitous (and obeys at once) only then.
		f.targetHW = mac
	}
	return f
}
