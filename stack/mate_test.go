package stack

import (
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// What the wrap sends by itself has the class of service of the other leg's peer, as the
// segments of netstack's have.
func TestOwnSegmentsHaveTheClass(t *testing.T) {
	const expedited = 46 << 2 // RFC 3246
	for _, v6 := range []bool{false, true} {
		q := newQuietEngine(t, 10)
		l, other := &Leg{engine: q.Engine, v6: v6}, &Leg{engine: q.Engine, v6: v6}
		if l.flow = flowOf(testVIP, netip.AddrPortFrom(testClient, 40000)); v6 {
			l.flow = flowOf(testVIP6, netip.AddrPortFrom(testClient6, 40000))
		}
		if b := l.ackTo(0, nil); classOf(b) != 0 {
			t.Errorf("without another leg: %x", classOf(b))
		}
		Join(l, other)
		other.rxClass.Store(expedited)
		b := l.ackTo(0, nil)
		if classOf(b) != expedited {
			t.Errorf("IPv6 %v: %x", v6, classOf(b))
		}
		if !v6 && checksum.Checksum(b[:header.IPv4MinimumSize], 0) != 0xffff {
			t.Error("checksum of the IP header")
		}
	}
}

func classOf(b []byte) uint8 {
	if b[0]>>4 == 6 {
		tos, _ := header.IPv6(b).TOS()
		return tos
	}
	tos, _ := header.IPv4(b).TOS()
	return tos
}
