package stack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lockstep/tun"
)

// A loop packet proves the way that the kernel brings packets by: it is written to the
// device as one for a virtual address, and must come back by forwarding, rules, table
// and the device, past whatever filters forwarded packets. It is made and taken by the
// engine alone, active or not, and says nothing to anybody else.

const (
	// loopHops is what a loop packet may be forwarded: once. If the rules are gone, it
	// goes no further than to the next host.
	loopHops = 2
	// loopPort is discard's (RFC 863), should it come to a host all the same.
	loopPort = 9
	loopLen  = 16 + 8 // a mark that nobody else knows, a number
)

// SendLoop writes loop packet number n from one virtual address to another, or the same.
func (e *Engine) SendLoop(src, dst netip.Addr, n uint64) error {
	src, dst = src.Unmap(), dst.Unmap()
	ipLen, proto := header.IPv4MinimumSize, header.IPv4ProtocolNumber
	if dst.Is6() {
		ipLen, proto = header.IPv6MinimumSize, header.IPv6ProtocolNumber
	}
	b := make([]byte, ipLen+header.UDPMinimumSize+loopLen)
	payload := b[ipLen+header.UDPMinimumSize:]
	copy(payload, e.loopMark[:])
	binary.BigEndian.PutUint64(payload[16:], n)
	udp := header.UDP(b[ipLen:])
	udp.Encode(&header.UDPFields{SrcPort: loopPort, DstPort: loopPort, Length: uint16(len(udp))})
	from, to := tcpip.AddrFromSlice(src.AsSlice()), tcpip.AddrFromSlice(dst.AsSlice())
	if proto == header.IPv6ProtocolNumber {
		header.IPv6(b).Encode(&header.IPv6Fields{
			PayloadLength: uint16(len(udp)), TransportProtocol: header.UDPProtocolNumber, HopLimit: loopHops, SrcAddr: from, DstAddr: to,
		})
	} else {
		ip := header.IPv4(b)
		ip.Encode(&header.IPv4Fields{
			TotalLength: uint16(len(b)), TTL: loopHops, Protocol: uint8(header.UDPProtocolNumber), SrcAddr: from, DstAddr: to,
		})
		ip.SetChecksum(^ip.CalculateChecksum())
	}
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, from, to, uint16(len(udp)))
	udp.SetChecksum(^udp.CalculateChecksum(checksum.Checksum(payload, sum)))
	var hdr [tun.VnetHeaderLen]byte
	if err := e.dev.WriteV([][]byte{hdr[:], b}); err != nil {
		return fmt.Errorf("write a loop packet: %w", err)
	}
	return nil
}

// LoopSeen is the highest number of a family's loop packets that has come back.
func (e *Engine) LoopSeen(v6 bool) uint64 { return e.loopsOf(v6).Load() }

// Looks tells how far the reader of each of the device's queues is.
func (e *Engine) Looks() []tun.Look {
	all := make([]tun.Look, 0, len(e.queues))
	for _, q := range e.queues {
		all = append(all, q.Look())
	}
	return all
}

func (e *Engine) loopsOf(v6 bool) *atomic.Uint64 {
	if v6 {
		return &e.looped[1]
	}
	return &e.looped[0]
}

// takeLoop reports whether b is a loop packet of this engine, and notes it.
func (e *Engine) takeLoop(b []byte) bool {
	ipLen := loopHeader(b)
	if ipLen == 0 {
		return false
	}
	payload := b[ipLen+header.UDPMinimumSize:]
	if !bytes.Equal(payload[:16], e.loopMark[:]) {
		return false
	}
	n := binary.BigEndian.Uint64(payload[16:])
	if looped := e.loopsOf(b[0]>>4 == 6); n > looped.Load() { // one reader
		looped.Store(n)
	}
	return true
}

// loopHeader is the length of the IP header of what may be a loop packet, 0 of others.
func loopHeader(b []byte) int {
	const rest = header.UDPMinimumSize + loopLen
	switch {
	case len(b) == header.IPv4MinimumSize+rest && b[0] == 0x45 && b[9] == uint8(header.UDPProtocolNumber):
		return header.IPv4MinimumSize
	case len(b) == header.IPv6MinimumSize+rest && b[0]>>4 == 6 && b[6] == uint8(header.UDPProtocolNumber):
		return header.IPv6MinimumSize
	}
	return 0
}
