package stack

import (
	"maps"
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

// An ICMP error that was damaged on its way is dropped before anything is read from it.
func TestDamagedICMPError(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		q := newQuietEngine(t, 10)
		f, typ := flowOf(testVIP, netip.AddrPortFrom(testClient, 40000)), byte(header.ICMPv4DstUnreachable)
		b := []byte{0: 0x45, 9: 1, 19: 0}
		if v6 {
			f, typ = flowOf(testVIP6, netip.AddrPortFrom(testClient6, 40000)), byte(header.ICMPv6DstUnreachable)
			b = []byte{0: 0x60, 6: 58, 39: 0}
		}
		ipLen := len(b)
		b = append(b, typ, 1, 0, 0, 0, 0, 0, 0)
		b = append(b, f.build(make([]byte, maxMade), v6, false, made{flags: header.TCPFlagAck, seq: 1})...)
		if v6 {
			header.IPv6(b).SetPayloadLength(uint16(len(b) - ipLen))
			copy(b[8:], f.remote[:])
			copy(b[24:], f.local[:])
			ip := header.IPv6(b)
			header.ICMPv6(b[ipLen:]).SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
				Header: b[ipLen:], Src: ip.SourceAddress(), Dst: ip.DestinationAddress(),
			}))
		} else {
			header.IPv4(b).SetTotalLength(uint16(len(b)))
			copy(b[12:], f.remote[12:])
			copy(b[16:], f.local[12:])
			header.ICMPv4(b[ipLen:]).SetChecksum(header.ICMPv4Checksum(b[ipLen:], 0))
		}
		q.table.add(&Leg{engine: q.Engine, flow: f, v6: v6, state: stClosed, p: Params{ISS: 5}})
		for i, want := range []map[string]uint64{
			{"icmp-error": 1},
			{"icmp-error": 1, "bad-checksum": 1},
			{"icmp-error": 1, "bad-checksum": 2},
		} {
			if i == 1 {
				b[len(b)-1]++
			}
			if i == 2 {
				q.ReceiveError(b)
			} else {
				q.take(b)
			}
			if d := q.C.Drops(); !maps.Equal(d, want) {
				t.Errorf("IPv6 %v, %d: drops %v", v6, i, d)
			}
		}
	}
}
