#!/usr/bin/env bash
# A FIN that comes along with bytes that were acknowledged already: is it taken?
# Version: gvisor.dev/gvisor v0.0.0-20260905035102-160fafc42237, pkg/tcpip. RFC 9293 section 3.10.7.4: what is before RCV.NXT is trimmed,
#       the rest of the segment, FIN included, counts.
# Guess: the old bytes are trimmed, the FIN is acknowledged.
# Seen: netstack acknowledges the bytes again and ignores the FIN. A peer that repeats its last segment whole, with the FIN joined to it
#       (lwIP does), is never closed. A FIN alone at its place is taken.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

var ours, theirs = tcpip.AddrFrom4([4]byte{10, 0, 0, 1}), tcpip.AddrFrom4([4]byte{10, 0, 0, 2})

func check(err tcpip.Error) {
	if err != nil {
		panic(err.String())
	}
}

// peer plays the other side of one connection to a netstack, segment by segment.
type peer struct {
	wire *channel.Endpoint
	ep   tcpip.Endpoint
	irs  uint32 // netstack's initial sequence number; ours is 0
}

func dialled() *peer {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, icmp.NewProtocol4},
	})
	p := &peer{wire: channel.New(1000, 1500, "")}
	check(s.CreateNIC(1, p.wire))
	check(s.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: ours.WithPrefix()}, stack.AddressProperties{}))
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: 1}})
	var wq waiter.Queue
	l, err := s.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, &wq)
	check(err)
	check(l.Bind(tcpip.FullAddress{Port: 80}))
	check(l.Listen(1))
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents)
	wq.EventRegister(&entry)
	p.send(header.TCPFlagSyn, 0, nil)
	p.irs = p.receive(time.Second).SequenceNumber()
	p.send(header.TCPFlagAck, 1, nil)
	<-ready
	p.ep, _, err = l.Accept(nil)
	check(err)
	return p
}

func (p *peer) inject(b []byte) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
	defer pkt.DecRef()
	p.wire.InjectInbound(ipv4.ProtocolNumber, pkt)
}

func encodeIP(proto byte, n int) []byte {
	b := make([]byte, 20+n)
	ip := header.IPv4(b)
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(b)), TTL: 64, Protocol: proto, SrcAddr: theirs, DstAddr: ours})
	ip.SetChecksum(^ip.CalculateChecksum())
	return b
}

// send sends a segment at seq that acknowledges netstack's SYN.
func (p *peer) send(flags header.TCPFlags, seq uint32, data []byte) {
	var mss []byte
	if flags&header.TCPFlagSyn != 0 {
		mss = []byte{2, 4, 1460 >> 8, 1460 & 0xff}
	}
	n := 20 + len(mss) + len(data)
	b := encodeIP(6, n)
	t := header.TCP(b[20:])
	t.Encode(&header.TCPFields{SrcPort: 999, DstPort: 80, SeqNum: seq, AckNum: p.irs + 1, DataOffset: uint8(20 + len(mss)), Flags: flags, WindowSize: 65535})
	copy(t[20:], mss)
	copy(t[20+len(mss):], data)
	t.SetChecksum(^checksum.Checksum(t, header.PseudoHeaderChecksum(6, theirs, ours, uint16(n))))
	p.inject(b)
}

// receive returns netstack's next segment, nil if there is none within d.
func (p *peer) receive(d time.Duration) header.TCP {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	pkt := p.wire.ReadContext(ctx)
	if pkt == nil {
		return nil
	}
	defer pkt.DecRef()
	b := bytes.Clone(pkt.ToView().AsSlice())
	return header.TCP(b[header.IPv4(b).HeaderLength():])
}

func main() {
	p := dialled()
	p.send(header.TCPFlagAck|header.TCPFlagPsh, 1, []byte("hello"))
	fmt.Println("bytes 1 to 5: acknowledged up to", p.receive(time.Second).AckNumber())
	p.send(header.TCPFlagAck|header.TCPFlagFin, 1, []byte("hello"))
	fmt.Println("the same with a FIN: acknowledged up to", p.receive(time.Second).AckNumber())
	p.send(header.TCPFlagAck|header.TCPFlagFin, 6, nil)
	fmt.Println("the FIN alone: acknowledged up to", p.receive(time.Second).AckNumber())
}
GO
go mod init finding >/dev/null 2>&1
go get gvisor.dev/gvisor/pkg/tcpip/transport/tcp@v0.0.0-20260905035102-160fafc42237 gvisor.dev/gvisor/pkg/tcpip/link/channel@v0.0.0-20260905035102-160fafc42237 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want="bytes 1 to 5: acknowledged up to 6
the same with a FIN: acknowledged up to 6
the FIN alone: acknowledged up to 7"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
