#!/usr/bin/env bash
# Two acknowledgements overtake each other on their way: does the older one move the window?
# Version: gvisor.dev/gvisor v0.0.0-20260905035102-160fafc42237, pkg/tcpip. RFC 9293 section 3.10.7.4: an ACK below SND.UNA is a duplicate and
#       can be ignored; the window is taken only from what is newer (SND.WL1, SND.WL2), so that old segments do not change it.
# Guess: the receiver's edge stays where its newest segment has put it.
# Seen: netstack adds the old segment's window to the new SND.UNA, and sends beyond what the receiver has offered: its receiver has
#       space for 2144 bytes, has taken them and closed its window, and gets 1072 more.
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
	p.send(header.TCPFlagSyn, 0, 0, 2144)
	p.irs = p.receive(time.Second).SequenceNumber()
	p.send(header.TCPFlagAck, 1, 0, 2144)
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

// send sends a segment without data that acknowledges n bytes of netstack's and announces a window.
func (p *peer) send(flags header.TCPFlags, seq, n uint32, window uint16) {
	var mss []byte
	if flags&header.TCPFlagSyn != 0 {
		mss = []byte{2, 4, 536 >> 8, 536 & 0xff}
	}
	size := 20 + len(mss)
	b := encodeIP(6, size)
	t := header.TCP(b[20:])
	t.Encode(&header.TCPFields{SrcPort: 999, DstPort: 80, SeqNum: seq, AckNum: p.irs + 1 + n, DataOffset: uint8(size), Flags: flags, WindowSize: window})
	copy(t[20:], mss)
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

// sent returns behind which of its bytes netstack has got, when it sends nothing more.
func (p *peer) sent() (n uint32) {
	for {
		t := p.receive(300 * time.Millisecond)
		if t == nil {
			return n
		}
		end := t.SequenceNumber() - p.irs - 1 + uint32(len(t)-int(t.DataOffset()))
		n = max(n, end)
	}
}

func main() {
	p := dialled()
	if _, err := p.ep.Write(bytes.NewReader(make([]byte, 10000)), tcpip.WriteOptions{}); err != nil {
		panic(err.String())
	}
	fmt.Println("2144 offered: sent up to", p.sent())
	p.send(header.TCPFlagAck, 1, 2144, 0)
	p.send(header.TCPFlagAck, 1, 1072, 1072)
	fmt.Println("all taken, window closed, then the ACK before that one: sent up to", p.sent())
}
GO
go mod init finding >/dev/null 2>&1
go get gvisor.dev/gvisor/pkg/tcpip/transport/tcp@v0.0.0-20260905035102-160fafc42237 gvisor.dev/gvisor/pkg/tcpip/link/channel@v0.0.0-20260905035102-160fafc42237 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want="2144 offered: sent up to 2144
all taken, window closed, then the ACK before that one: sent up to 3216"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
