#!/usr/bin/env bash
# A receiver that has closed its own direction gets segments behind a hole: does it say so?
# Version: gvisor.dev/gvisor v0.0.0-20260905035102-160fafc42237, pkg/tcpip. RFC 2018 section 4: if the data receiver generates SACK options, it
#       SHOULD do so in every ACK that does not acknowledge the highest sequence number it has. FIN-WAIT is no exception.
# Guess: the duplicate ACK reports the block, before the FIN and after it.
# Seen: netstack reports in ESTABLISHED only. It keeps the segment in FIN-WAIT, too, and does not say so; a sender with SACK takes such
#       an ACK for no sign of loss, and waits for its time-out for each hole.
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
	fin  uint32 // 1: its FIN is acknowledged
}

func dialled() *peer {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, icmp.NewProtocol4},
	})
	p := &peer{wire: channel.New(1000, 1500, "")}
	sack := tcpip.TCPSACKEnabled(true)
	check(s.SetTransportProtocolOption(tcp.ProtocolNumber, &sack))
	check(s.CreateNIC(1, p.wire))
	check(s.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: ours.WithPrefix()}, stack.AddressProperties{}))
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: 1}})
	var wq waiter.Queue
	l, err := s.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, &wq)
	check(err)
	check(l.Bind(tcpip.FullAddress{Port: 80}))
	check(l.Listen(10)) // with 1 it answers by a SYN cookie, and without SACK
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents)
	wq.EventRegister(&entry)
	p.send(header.TCPFlagSyn, 0, 0)
	p.irs = p.receive(time.Second).SequenceNumber()
	p.send(header.TCPFlagAck, 1, 0)
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

// send sends n bytes of data.
func (p *peer) send(flags header.TCPFlags, seq uint32, n int) {
	var opts []byte
	if flags&header.TCPFlagSyn != 0 {
		opts = []byte{2, 4, 536 >> 8, 536 & 0xff, 1, 1, 4, 2} // MSS, SACK permitted
	}
	size := 20 + len(opts) + n
	b := encodeIP(6, size)
	t := header.TCP(b[20:])
	t.Encode(&header.TCPFields{SrcPort: 999, DstPort: 80, SeqNum: seq, AckNum: p.irs + 1 + p.fin, DataOffset: uint8(20 + len(opts)), Flags: flags, WindowSize: 60000})
	copy(t[20:], opts)
	t.SetChecksum(^checksum.Checksum(t, header.PseudoHeaderChecksum(6, theirs, ours, uint16(size))))
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

// says is how many blocks netstack's next segment reports.
func (p *peer) says() string {
	t := p.receive(time.Second)
	if t == nil {
		return "nothing"
	}
	return fmt.Sprintf("ack %d, blocks: %d", t.AckNumber(), len(header.ParseTCPOptions(t.Options()).SACKBlocks))
}

func main() {
	p := dialled()
	p.send(header.TCPFlagAck, 101, 100)
	fmt.Println("established:", p.says())
	check(p.ep.Shutdown(tcpip.ShutdownWrite))
	p.receive(time.Second) // its FIN
	p.fin = 1
	p.send(header.TCPFlagAck, 301, 100)
	fmt.Println("after its FIN:", p.says())
	p.send(header.TCPFlagAck, 1, 100)
	p.send(header.TCPFlagAck, 201, 100)
	var ack uint32
	for t := p.receive(time.Second); t != nil; t = p.receive(time.Second) {
		ack = t.AckNumber()
	}
	fmt.Println("the holes filled: ack", ack)
}
GO
go mod init finding >/dev/null 2>&1
go get gvisor.dev/gvisor/pkg/tcpip/transport/tcp@v0.0.0-20260905035102-160fafc42237 gvisor.dev/gvisor/pkg/tcpip/link/channel@v0.0.0-20260905035102-160fafc42237 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want="established: ack 1, blocks: 1
after its FIN: ack 1, blocks: 0
the holes filled: ack 401"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
