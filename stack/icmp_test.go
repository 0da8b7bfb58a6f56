package stack_test

import (
	"encoding/binary"
	"testing"

	"lockstep/stack"
	"lockstep/stack/script"
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
// can guess addresses and ports (RFC 5927), and no path is as narrow as some say.
func TestForgedPathMTU(t *testing.T) {
	b := newBench(t, stack.Options{})
	l := b.open()
	b.mu.Lock()
	b.allowed = 1 << 20
	b.mu.Unlock()
	l.Open()
	for _, seq := range []uint32{b.iss + 1<<30, b.iss - 5000, b.iss + 1} {
		if err := b.far.WriteV([][]byte{make([]byte, tun.VnetHeaderLen), fragmentationNeeded(seq, 68)}); err != nil {
			t.Fatal(err)
		}
	}
	b.barrier()
	n := b.count()
	if k, err := l.Write([][]byte{pattern(0, 1400)}, 1400); k != 1400 || err != nil {
		t.Fatalf("wrote %d: %v", k, err)
	}
	s := b.expect(n, "data", func(s *script.Segment) bool { return len(s.Payload) > 0 })
	if s.Piece < 500 {
		t.Errorf("segments of %d bytes", s.Piece)
	}
}

// A true one is heeded.
func TestPathMTU(t *testing.T) {
	b := newBench(t, stack.Options{})
	l := b.open()
	n := b.count()
	if k, err := l.Write([][]byte{pattern(0, 1400)}, 1400); k != 1400 || err != nil {
		t.Fatalf("wrote %d: %v", k, err)
	}
	s := b.expect(n, "data", func(s *script.Segment) bool { return len(s.Payload) == 1400 })
	n = b.count()
	if err := b.far.WriteV([][]byte{make([]byte, tun.VnetHeaderLen), fragmentationNeeded(s.Seq, 1000)}); err != nil {
		t.Fatal(err)
	}
	s = b.expect(n, "smaller segments", func(s *script.Segment) bool { return s.Piece > 0 && s.Piece < 1000 })
	if s.Piece < 900 || s.Seq != b.iss+1 {
		t.Errorf("segment of %d bytes at %d", s.Piece, s.Seq-b.iss)
	}
}
