package relay

import (
	"testing"

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
