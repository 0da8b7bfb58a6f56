package stack

import (
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// A smaller path MTU is used for ten minutes, then the path is asked again.
func TestPathMTUAges(t *testing.T) {
	q := newQuietEngine(t, 10)
	l := &Leg{engine: q.Engine}
	if n := l.pieceSize(52); n != 0 {
		t.Fatalf("piece of %d", n)
	}
	l.narrow(1000)
	l.narrow(1200)
	if n := l.pieceSize(52); n != 948 {
		t.Fatalf("piece of %d", n)
	}
	l.narrow(800)
	if left := l.pathUntil - q.now(); left > pathMTULife || left < pathMTULife-time.Minute {
		t.Errorf("used for another %v", left)
	}
	l.pathUntil = q.now()
	if n := l.pieceSize(52); n != 0 {
		t.Errorf("after its time: piece of %d", n)
	}
	l.narrow(1200)
	if n := l.pieceSize(52); n != 1148 {
		t.Errorf("asked again: piece of %d", n)
	}
}

// What an ICMP error quotes is read from either family; what is cut short, or
// quotes no TCP, is no error about a segment.
func TestParseICMPError(t *testing.T) {
	want := flowOf(netip.MustParseAddrPort("203.0.113.10:80"), netip.MustParseAddrPort("198.51.100.7:40000"))
	want6 := flowOf(netip.MustParseAddrPort("[2001:db8::10]:80"), netip.MustParseAddrPort("[2001:db8::7]:40000"))
	quoted := want.build(make([]byte, maxMade), false, false, made{flags: header.TCPFlagAck, seq: 0x01020304})[:28]
	quoted6 := want6.build(make([]byte, maxMade), true, false, made{flags: header.TCPFlagAck, seq: 0x01020304})[:48]
	ip := func(typ, code byte) []byte {
		b := make([]byte, 20, 60)
		b[0], b[9] = 0x45, 1
		return append(append(b, typ, code, 0, 0, 0, 0, 1000>>8, 1000&0xff), quoted...)
	}
	ip6 := func(typ, code byte) []byte {
		b := make([]byte, 40, 120)
		b[0], b[6] = 0x60, 58
		return append(append(b, typ, code, 0, 0, 0, 0, 1400>>8, 1400&0xff), quoted6...)
	}
	for _, c := range []struct {
		name   string
		b      []byte
		want   flow
		tooBig bool
		mtu    uint32
		no     bool
	}{
		{"fragmentation needed", ip(3, 4), want, true, 1000, false},
		{"host unreachable", ip(3, 1), want, false, 0, false},
		{"time exceeded", ip(11, 0), want, false, 0, false},
		{"echo", ip(8, 0), want, false, 0, true},
		{"packet too big", ip6(2, 0), want6, true, 1400, false},
		{"no route", ip6(1, 0), want6, false, 0, false},
		{"echo6", ip6(128, 0), want6, false, 0, true},
	} {
		q, ok := parseICMPError(c.b)
		if ok == c.no {
			t.Errorf("%s: %v", c.name, ok)
			continue
		}
		if ok && (q.flow != c.want || q.seq != 0x01020304 || q.tooBig != c.tooBig || c.tooBig && q.mtu != c.mtu) {
			t.Errorf("%s: %+v", c.name, q)
		}
		for n := 1; n < len(c.b); n++ {
			if _, ok := parseICMPError(c.b[:n:n]); ok && n < len(c.b) {
				t.Errorf("%s: %d bytes are enough", c.name, n)
			}
		}
	}
}
