//go:build !race

package stack

import (
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lockstep/tun"
)

// Looking at an inbound segment allocates nothing.
func TestReceiveAllocatesNothing(t *testing.T) {
	q := newQuietEngine(t, 10)
	f := flowOf(testVIP, netip.AddrPortFrom(testClient, 40000))
	b := f.build(make([]byte, maxMade), false, true, made{flags: header.TCPFlagAck, seq: 1000, ack: 1})
	b[len(b)-1]++ // so that it goes no further than the checksum
	pkt, hdr := packetOf(b), make([]byte, tun.VnetHeaderLen)
	defer pkt.DecRef()
	if n := testing.AllocsPerRun(100, func() { q.receive(hdr, pkt, len(b)) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if n := q.C.Drops()["bad-checksum"]; n != 101 {
		t.Errorf("%d dropped", n)
	}
}
