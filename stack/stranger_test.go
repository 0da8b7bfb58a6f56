package stack

import (
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Segments of no connection are answered as a closed port answers them (RFC 9293,
// 3.10.7.1).
func TestStrangers(t *testing.T) {
	const syn, ack, fin, rst = header.TCPFlagSyn, header.TCPFlagAck, header.TCPFlagFin, header.TCPFlagRst
	closed := netip.AddrPortFrom(testVIP.Addr(), 81)
	for _, c := range []struct {
		name     string
		to       netip.AddrPort
		flags    header.TCPFlags
		want     header.TCPFlags
		seq, ack uint32
	}{
		{"SYN to a port of nobody's", closed, syn, rst | ack, 0, 1001},
		{"ACK", closed, ack, rst, 2000, 0},
		{"ACK to a listening port", testVIP, ack, rst, 2000, 0},
		{"FIN with ACK", testVIP, fin | ack, rst, 2000, 0},
		{"FIN", testVIP, fin, rst | ack, 0, 1001},
		{"SYN-ACK", testVIP, syn | ack, rst, 2000, 0},
		{"nothing", closed, 0, rst | ack, 0, 1000},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := newQuietEngine(t, 10)
			f := flowOf(c.to, netip.AddrPortFrom(testClient, 40000))
			q.take(f.build(make([]byte, maxMade), false, true, made{flags: c.flags, seq: 1000, ack: 2000, window: 65535}))
			s := q.next(t)
			if s.Flags() != c.want || s.SequenceNumber() != c.seq || s.AckNumber() != c.ack ||
				s.SourcePort() != c.to.Port() || s.DestinationPort() != 40000 {
				t.Errorf("answer: flags %v seq %d ack %d, %d > %d", s.Flags(), s.SequenceNumber(), s.AckNumber(), s.SourcePort(), s.DestinationPort())
			}
		})
	}
}

// A RST, and what comes from an address that is nobody's, is not answered.
func TestStrangersWithoutAnswer(t *testing.T) {
	q := newQuietEngine(t, 10)
	for i, from := range []string{"198.51.100.9", "224.0.0.1", "255.255.255.255", "0.0.0.0"} {
		f := flowOf(testVIP, netip.AddrPortFrom(netip.MustParseAddr(from), 40000))
		flags := header.TCPFlagAck
		if i == 0 {
			flags |= header.TCPFlagRst
		}
		q.take(f.build(make([]byte, maxMade), false, true, made{flags: flags, seq: 1000, ack: 2000}))
		q.none(t)
		if n := q.C.Drops()["unknown-flow"]; n != uint64(i+1) {
			t.Errorf("%s: %d drops counted", from, n)
		}
	}
}

// A segment that was on its way to an endpoint when the leg was dropped makes
// netstack say RST, in its own numbers: that does not leave.
func TestLateSegmentOfDroppedLegIsSilent(t *testing.T) {
	q := newQuietEngine(t, 10)
	f := flowOf(testVIP, netip.AddrPortFrom(testClient, 40000))
	q.inject(f.build(make([]byte, maxMade), false, true, made{flags: header.TCPFlagAck, seq: 1000, ack: 2000}), false)
	q.none(t)
	if n := q.C.Drops()["detached"]; n != 1 {
		t.Errorf("drops %v", q.C.Drops())
	}
}
