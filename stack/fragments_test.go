package stack_test

import (
	"encoding/binary"
	"testing"

	"lockstep/internal/script"
	"lockstep/stack"
	"lockstep/tun"
)

// cut makes fragments of a packet, each with n bytes of payload.
func cut(p []byte, id uint16, n int) (parts [][]byte) {
	for at := 20; at < len(p); at += n {
		end := min(at+n, len(p))
		f := append(append([]byte(nil), p[:20]...), p[at:end]...)
		off := uint16(at-20) / 8
		if end < len(p) {
			off |= 0x2000
		}
		binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
		binary.BigEndian.PutUint16(f[4:], id)
		binary.BigEndian.PutUint16(f[6:], off)
		binary.BigEndian.PutUint16(f[10:], 0)
		binary.BigEndian.PutUint16(f[10:], cksum(f[:20]))
		parts = append(parts, f)
	}
	return parts
}

func (b *bench) raw(parts ...[]byte) {
	b.t.Helper()
	for _, p := range parts {
		if err := b.far.WriteV([][]byte{make([]byte, tun.VnetHeaderLen), p}); err != nil {
			b.t.Fatal(err)
		}
	}
	b.barrier()
}

// A client behind a narrow path sends fragments: they are put together in any order;
// what overlaps, is incomplete or damaged is dropped and counted, and costs nothing else.
func TestFragments(t *testing.T) {
	b := newBench(t, stack.Options{})
	l := b.open()
	b.mu.Lock()
	b.allowed = 1 << 20
	b.mu.Unlock()
	l.Open()
	data := func(off uint32) []byte {
		s := script.Segment{
			Src: benchClient, Dst: benchVIP, Flags: script.ACK, Seq: benchISN + 1 + off, Ack: b.iss + 1, Win: 1000,
			Opts: b.opts(false), Payload: pattern(off, 500),
		}
		return s.Encode()
	}
	f := cut(data(0), 1, 200)
	n := b.count()
	b.raw(f[2], f[0], f[1])
	b.expect(n, "ACK", func(s *script.Segment) bool { return s.Ack == benchISN+1+500 })

	drops := func() uint64 { return b.eng.C.Drops()["fragment"] }
	f = cut(data(500), 2, 200)
	b.raw(f[0], f[0]) // overlap: both go
	b.raw(f[1], f[2])
	if drops() != 1 {
		t.Errorf("%d dropped", drops())
	}
	f = cut(data(500), 3, 200)
	f[1][100] ^= 1
	b.raw(f...)
	if n := b.eng.C.Drops()["bad-checksum"]; n != 1 {
		t.Errorf("checksum: %v", b.eng.C.Drops())
	}
	for id := range uint16(1000) { // first parts of packets that never become whole
		b.raw(cut(data(500), 100+id, 200)[0])
	}
	if d := drops(); d < 700 {
		t.Errorf("%d dropped: nothing bounds them", d)
	}
	n = b.count()
	b.raw(cut(data(500), 5000, 200)...)
	b.expect(n, "ACK", func(s *script.Segment) bool { return s.Ack == benchISN+1+1000 })
}
