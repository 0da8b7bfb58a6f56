package stack_test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"lockstep/internal/script"
	"lockstep/stack"
	"lockstep/tun"
)

// fragmentationNeeded is what a router says that cannot pass on our segment seq.
func fragmentationNeeded(seq uint32, mtu uint16) []byte {
	quoted := script.Segment{Src: benchVIP, Dst: benchClient, Flags: script.ACK, Seq: seq, Opts: script.NoOpts}
	icmp := append([]byte{3, 4, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}, quoted.Encode()[:28]...)
	binary.BigEndian.PutUint16(icmp[2:], cksum(icmp))
	p := make([]byte, 20, 20+len(icmp))
	p[0], p[3], p[8], p[9] = 0x45, byte(20+len(icmp)), 64, 1
	copy(p[12:], benchClient.Addr().AsSlice())
	copy(p[16:], benchVIP.Addr().AsSlice())
	binary.BigEndian.PutUint16(p[10:], cksum(p))
	return append(p, icmp...)
}

// An ICMP error that does not quote what is in flight may come from anyone who
// can guess addresses and ports (RFC 5927).
func TestForgedPathMTU(t *testing.T) {
	b := newBench(t, stack.Options{})
	l := b.open()
	b.mu.Lock()
	b.allowed = 1 << 20
	b.mu.Unlock()
	l.Open()
	b.write(l, 0, 1400)
	s := b.expect(0, "data", func(s *script.Segment) bool { return len(s.Payload) > 0 })
	for _, f := range []struct {
		seq uint32
		mtu uint16
	}{
		{s.Seq - 1, 68}, {s.Seq - 1, 1000}, {s.Seq + 1401, 1000}, {s.Seq + 1<<30, 1000}, {s.Seq - 5000, 1000}, {s.Seq + 1<<31, 1000},
	} {
		b.icmp(fragmentationNeeded(f.seq, f.mtu))
	}
	if n := b.eng.C.Drops()["icmp-error"]; n != 6 {
		t.Errorf("%d refused: %v", n, b.eng.C.Drops())
	}
	n := b.count()
	b.write(l, 1400, 1400)
	if s := b.expect(n, "data", func(s *script.Segment) bool { return s.Seq == b.iss+1401 }); s.Piece != 1400 {
		t.Errorf("segments of %d bytes", s.Piece)
	}
}

// A true one is heeded: at once by what is sent from then on, after the time-out by
// what was lost.
func TestPathMTU(t *testing.T) {
	b := newBench(t, stack.Options{})
	l := b.open()
	n := b.count()
	b.write(l, 0, 1400)
	s := b.expect(n, "data", func(s *script.Segment) bool { return len(s.Payload) == 1400 })
	n = b.count()
	b.icmp(fragmentationNeeded(s.Seq, 1000))
	b.icmp(fragmentationNeeded(s.Seq, 1200)) // a late one
	b.write(l, 1400, 1400)
	for _, seq := range []uint32{b.iss + 1401, b.iss + 1} {
		s = b.expect(n, "smaller segments", func(s *script.Segment) bool { return s.Seq == seq })
		if s.Piece != 1000-52 || s.Pieces != 2 {
			t.Errorf("%d segments of %d bytes at %d", s.Pieces, s.Piece, seq-b.iss)
		}
	}
}

// A path narrower than 552 bytes: segments stay at that size and may be fragmented,
// each with an identification of its own.
func TestNarrowPath(t *testing.T) {
	b := newBench(t, stack.Options{})
	l := b.open()
	n := b.count()
	b.write(l, 0, 1400)
	s := b.expect(n, "data", func(s *script.Segment) bool { return len(s.Payload) == 1400 })
	if s.MayFragment {
		t.Errorf("may be fragmented: %s", &s)
	}
	n = b.count()
	b.icmp(fragmentationNeeded(s.Seq, 296))
	b.write(l, 1400, 2000)
	var last script.Segment
	for _, seq := range []uint32{b.iss + 1401, b.iss + 1} { // the lost one after its time-out
		s := b.expect(n, "smaller segments", func(s *script.Segment) bool { return s.Seq == seq && len(s.Payload) > 0 })
		if s.Piece != 552-52 || !s.MayFragment {
			t.Errorf("segments of %d bytes, may be fragmented: %v", s.Piece, s.MayFragment)
		}
		if last.Pieces > 0 && s.ID-last.ID < uint16(last.Pieces) {
			t.Errorf("%d packets from identification %d on, then %d", last.Pieces, last.ID, s.ID)
		}
		last = s
	}
}

// icmp lets the engine take an ICMP error.
func (b *bench) icmp(p []byte) {
	b.t.Helper()
	if err := b.far.WriteV([][]byte{make([]byte, tun.VnetHeaderLen), p}); err != nil {
		b.t.Fatal(err)
	}
	b.barrier()
}

// write gives the leg n bytes to send.
func (b *bench) write(l *stack.Leg, off uint32, n int) {
	b.t.Helper()
	if k, err := l.Write([][]byte{pattern(off, n)}, n); k != n || err != nil {
		b.t.Fatalf("wrote %d: %v", k, err)
	}
}

// A client that wants its segments signed (TCP MD5) is refused at once, and counted.
func TestSignedIsRefused(t *testing.T) {
	told := make(chan stack.Notice, 10)
	b := newBench(t, stack.Options{Notice: func(n stack.Notice, peer netip.AddrPort) {
		if peer != benchClient {
			t.Errorf("peer %s", peer)
		}
		told <- n
	}})
	for i := range 2 {
		n := b.count()
		md5 := append([]byte{19, 18}, make([]byte, 18)...)
		b.inject(script.Segment{Flags: script.SYN, Seq: benchISN + uint32(i), Win: 65535, Opts: script.Opts{Raw: md5, WScale: -1}})
		if s := b.expect(n, "refusal", func(s *script.Segment) bool { return s.Flags&script.RST != 0 }); s.Ack != benchISN+uint32(i)+1 {
			t.Errorf("RST of %d", s.Ack)
		}
	}
	b.await("ICMP errors", func() bool { return b.pongs == 2 })
	if n := b.eng.C.Drops()["signed-segments"]; n != 2 || len(told) != 1 || <-told != stack.NoticeSigned {
		t.Errorf("%d counted: %v", n, b.eng.C.Drops())
	}
}
