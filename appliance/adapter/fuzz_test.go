package adapter_test

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"lockstep/appliance/adapter"
)

// follow gives an exchange as a relay would: what has come of the response is released as far as
// it may be, in slices of random length, and all at the end.
func follow(t *testing.T, x *exchange, points []point, masked []bool, rnd *rand.Rand) {
	a := newHTTP(t)
	for b := x.req; len(b) > 0; {
		n := 1 + rnd.IntN(len(b))
		a.Request(b[:n])
		b = b[n:]
	}
	if x.ended {
		a.RequestEnd()
	}
	got := make([]bool, len(x.resp))
	at, come := 0, 0
	for {
		come += rnd.IntN(len(x.resp) - come + 1)
		if rnd.IntN(8) == 0 {
			come = len(x.resp)
		}
		end := come == len(x.resp) && rnd.IntN(2) == 0
		b := x.resp[at:come]
		n := a.Releasable(b, end)
		if n < 0 || n > len(b) {
			t.Fatalf("offset %d: %d of %d bytes are released", at, n, len(b))
		}
		b = b[:n]
		maskedBytes(t, got, a.Mask(nil, b), at, n)
		give(t, a, b, at, func(at int) {
			if p := pointOf(a); p != points[at] {
				t.Fatalf("offset %d: %+v, byte by byte %+v", at, p, points[at])
			}
		})
		at += n
		if !end {
			continue
		}
		if at < len(x.resp) && a.End() != adapter.Premature {
			t.Fatalf("offset %d: the last %d bytes are held back, a FIN is %v", at, len(x.resp)-at, a.End())
		}
		if !slices.Equal(got[:at], masked[:at]) {
			t.Fatalf("masked %s, byte by byte %s", show(x.resp[:at], got), show(x.resp[:at], masked))
		}
		return
	}
}

// FuzzSplits: what is said of an exchange does not depend on how it is cut, and another
// appliance can go on anywhere.
func FuzzSplits(f *testing.F) {
	for i, e := range examples {
		x := e.parse()
		f.Add(x.req, x.resp, uint64(i), x.ended)
	}
	for _, requests := range opaqueRequests {
		f.Add(crlf(requests), crlf("HTTP/1.1 400 Bad\n\n"), uint64(1), false)
	}
	f.Fuzz(func(t *testing.T, req, resp []byte, seed uint64, ended bool) {
		if len(req) > 4096 || len(resp) > 4096 {
			return
		}
		x := &exchange{req: req, resp: resp, ended: ended}
		rnd := rand.New(rand.NewPCG(seed, 0))
		points, masked := trace(t, x)
		last := uint64(0)
		for at, p := range points {
			if p.ok && (p.req < last || p.req > uint64(len(req))) {
				t.Fatalf("offset %d: checkpoint %d of %d, after %d", at, p.req, len(req), last)
			}
			if p.ok {
				last = p.req
			}
		}
		for range 3 {
			follow(t, x, points, masked, rnd)
			at := rnd.IntN(len(points))
			sameAfterRestore(t, x, points, masked, at, 0)
		}
	})
}

// FuzzRestore: a state from outside is refused, or gone on from without harm.
func FuzzRestore(f *testing.F) {
	for _, e := range examples {
		x := e.parse()
		points, _ := trace(f, x)
		f.Add([]byte(points[len(points)/2].state), uint64(0), x.req, x.resp[len(x.resp)/2:])
	}
	f.Fuzz(func(t *testing.T, state []byte, at uint64, req, resp []byte) {
		a := newHTTP(t)
		if a.Restore(state, at) != nil {
			if p := pointOf(a); p != pointOf(newHTTP(t)) {
				t.Fatalf("refused, and yet %+v", p)
			}
			return
		}
		if again := a.State(nil); !bytes.Equal(again, state) {
			t.Fatalf("state %x, restored %x", state, again)
		}
		a.Request(req)
		a.Mask(nil, resp)
		n := a.Releasable(resp, true)
		give(t, a, resp[:n], 0, func(int) {})
		if n < len(resp) && a.End() != adapter.Premature {
			t.Fatalf("%d of %d bytes are released at the end, a FIN is %v", n, len(resp), a.End())
		}
		if state := a.State(nil); len(state) > adapter.MaxState {
			t.Fatalf("state of %d bytes", len(state))
		}
	})
}
