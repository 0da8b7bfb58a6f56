package relay

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"lockstep/replication"
)

func TestRing(t *testing.T) {
	var r ring
	if r.pop() != nil {
		t.Fatal("empty ring gives something")
	}
	conns := make([]*Conn, 1000)
	for i := range conns {
		conns[i] = &Conn{ID: replication.ConnID(i)}
	}
	in, out := 0, 0
	for _, step := range []int{3, -2, 100, -70, 200, -231, 64, -64, 500, -1000} {
		for ; step > 0; step-- {
			r.push(conns[in])
			in++
		}
		for ; step < 0; step++ {
			c := r.pop()
			if out == in {
				if c != nil {
					t.Fatal("more comes out than went in")
				}
				continue
			}
			if c != conns[out] {
				t.Fatalf("out of order at %d", out)
			}
			out++
		}
		if r.n != in-out {
			t.Fatalf("%d in the ring, %d expected", r.n, in-out)
		}
	}
	for _, c := range r.buf {
		if c != nil {
			t.Fatal("the ring keeps what was taken out")
		}
	}
}

func TestAfter(t *testing.T) {
	bufs := [][]byte{[]byte("abc"), {}, []byte("defg"), []byte("h")}
	whole := "abcdefgh"
	for skip := range len(whole) + 1 {
		rest, n := after(bufs, skip)
		if got := string(bytes.Join(rest, nil)); got != whole[skip:] || n != len(got) {
			t.Errorf("after %d: %q, %d bytes", skip, got, n)
		}
	}
}

func TestHealthPick(t *testing.T) {
	now := time.Duration(0)
	h := &health{failed: make(map[serverKey]time.Duration), probed: make(map[serverKey]time.Duration), now: func() time.Duration { return now }}
	s := &Service{DownFor: 10 * time.Second, Servers: []netip.AddrPort{
		netip.MustParseAddrPort("[fd00::1]:80"), netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("10.0.0.2:80"),
	}}
	pick := func(v6 bool, n, last, want int, fits bool) {
		t.Helper()
		if i, ok := h.pick(s, v6, n, last); i != want || ok != fits {
			t.Errorf("attempt %d: server %d, %v; want %d, %v", n, i, ok, want, fits)
		}
	}
	pick(false, 0, 0, 1, true) // the first of its family
	pick(true, 0, 0, 0, true)
	h.down(s, 1)
	pick(false, 0, 0, 2, true)
	pick(false, 1, 2, 0, false) // further attempts go round; the wrong family is passed over
	pick(false, 2, 0, 1, true)
	h.down(s, 2)
	pick(false, 0, 0, 1, true) // all are down: the first
	now = 10*time.Second + 1
	pick(false, 0, 0, 1, true) // asked again
	h.down(s, 1)
	h.up(s, 2)
	pick(false, 0, 0, 2, true)
	s.SourceGateway = true
	pick(false, 0, 0, 0, true) // any family will do
}
