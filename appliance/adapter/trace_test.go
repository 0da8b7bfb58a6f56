package adapter_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"lockstep/appliance/adapter"
)

// example is an exchange with marks in its text, see parse.
type example struct {
	name     string
	requests string // a | where a checkpoint of the requests is
	replies  string // { } around what is released whole, < > around what is masked, | at the same checkpoints
	ended    bool   // the client has sent its FIN
	end      adapter.Verdict
}

// exchange is an example without its marks.
type exchange struct {
	req, resp   []byte
	ended       bool
	checkpoints map[int]uint64 // by response offset; the start is one, too
	held        [][2]int
	masked      [][2]int
}

// parse takes the marks out. In the text lines end with \n, which stands for CRLF; ~ stands for
// a bare LF, ^ for a bare CR.
func (e *example) parse() *exchange {
	x := &exchange{ended: e.ended, checkpoints: map[int]uint64{0: 0}}
	replace := strings.NewReplacer("\n", "\r\n", "~", "\n", "^", "\r")
	var ends []uint64
	for i, part := range strings.Split(e.requests, "|") {
		if i > 0 {
			ends = append(ends, uint64(len(x.req)))
		}
		x.req = append(x.req, replace.Replace(part)...)
	}
	for _, c := range e.replies {
		at := len(x.resp)
		switch c {
		case '|':
			x.checkpoints[at] = ends[0]
			ends = ends[1:]
		case '{':
			x.held = append(x.held, [2]int{at, at})
		case '}':
			x.held[len(x.held)-1][1] = at
		case '<':
			x.masked = append(x.masked, [2]int{at, at})
		case '>':
			x.masked[len(x.masked)-1][1] = at
		default:
			x.resp = append(x.resp, replace.Replace(string(c))...)
		}
	}
	if len(ends) > 0 {
		panic(e.name + ": more checkpoints in the requests than in the replies")
	}
	return x
}

// newHTTP returns an adapter that masks what is masked by default.
func newHTTP(t testing.TB) *adapter.HTTP {
	t.Helper()
	mask, err := adapter.NewMask(adapter.DefaultMask())
	if err != nil {
		t.Fatal(err)
	}
	return adapter.NewHTTP(mask)
}

// point is what an adapter says at one offset of the response.
type point struct {
	req   uint64
	ok    bool
	end   adapter.Verdict
	state string
}

func pointOf(a adapter.Adapter) point {
	p := point{end: a.End(), state: string(a.State(nil))}
	if p.req, p.ok = a.Checkpoint(); !p.ok {
		p.req = 0
	}
	return p
}

// give feeds the next response bytes, piece by piece, and reports at each offset where it
// stopped.
func give(t testing.TB, a adapter.Adapter, b []byte, at int, report func(at int)) {
	t.Helper()
	for len(b) > 0 {
		n := a.Response(b)
		if n < 1 || n > len(b) {
			t.Fatalf("offset %d: Response took %d of %d bytes", at, n, len(b))
		}
		b, at = b[n:], at+n
		report(at)
	}
}

// trace follows an exchange byte by byte: points[i] is at response offset i, masked tells every
// masked byte.
func trace(t testing.TB, x *exchange) (points []point, masked []bool) {
	t.Helper()
	a := newHTTP(t)
	request(a, x, 0, 1)
	points = append(points, pointOf(a))
	for i := range x.resp {
		b := x.resp[i : i+1]
		spans := a.Mask(nil, b)
		if len(spans) > 0 && !slices.Equal(spans, [][2]int{{0, 1}}) {
			t.Fatalf("offset %d: Mask of one byte gives %v", i, spans)
		}
		masked = append(masked, len(spans) == 1)
		give(t, a, b, i, func(int) { points = append(points, pointOf(a)) })
	}
	return points, masked
}

// request gives the request stream from offset at on, in slices of length step.
func request(a adapter.Adapter, x *exchange, at, step int) {
	for b := range slices.Chunk(x.req[at:], step) {
		a.Request(b)
	}
	if x.ended {
		a.RequestEnd()
	}
}

// maskedBytes turns spans of a slice that begins at offset base into flags.
func maskedBytes(t testing.TB, all []bool, spans [][2]int, base, length int) {
	t.Helper()
	last := -1
	for _, s := range spans {
		if s[0] <= last || s[1] <= s[0] || s[1] > length {
			t.Fatalf("spans %v of %d bytes are not in order, apart and within", spans, length)
		}
		last = s[1]
		for i := s[0]; i < s[1]; i++ {
			all[base+i] = true
		}
	}
}

// sameInSlices follows an exchange with the streams cut at the given offsets and compares with
// its trace.
func sameInSlices(t testing.TB, x *exchange, points []point, masked []bool, reqCut int, respCuts ...int) {
	t.Helper()
	a := newHTTP(t)
	a.Request(x.req[:reqCut])
	request(a, x, reqCut, max(len(x.req), 1))
	got := make([]bool, len(x.resp))
	at := 0
	for _, to := range append(respCuts, len(x.resp)) {
		b := x.resp[at:to]
		// Junk before the spans must stay as it is.
		spans := a.Mask([][2]int{{-1, 0}}, b)
		if spans[0] != [2]int{-1, 0} {
			t.Fatalf("Mask changed what was there: %v", spans)
		}
		maskedBytes(t, got, spans[1:], at, len(b))
		give(t, a, b, at, func(at int) {
			if p := pointOf(a); p != points[at] {
				t.Fatalf("cut at %d and %d, offset %d: %+v, byte by byte %+v", reqCut, respCuts, at, p, points[at])
			}
		})
		at = to
	}
	if !slices.Equal(got, masked) {
		t.Fatalf("cut at %d: masked %s, byte by byte %s", respCuts, show(x.resp, got), show(x.resp, masked))
	}
}

// show writes masked bytes as #.
func show(b []byte, masked []bool) string {
	b = bytes.Clone(b)
	for i := range b {
		if masked[i] {
			b[i] = '#'
		}
	}
	return fmt.Sprintf("%q", b)
}

// sameAfterRestore takes the state at offset at and goes on elsewhere, with the requests from
// offset from on.
func sameAfterRestore(t testing.TB, x *exchange, points []point, masked []bool, at, from int) {
	t.Helper()
	a := newHTTP(t)
	state := []byte(points[at].state)
	if len(state) > adapter.MaxState {
		t.Fatalf("offset %d: state of %d bytes", at, len(state))
	}
	if err := a.Restore(state, uint64(from)); err != nil {
		t.Fatalf("offset %d: %v", at, err)
	}
	request(a, x, from, max(len(x.req), 1))
	if p := pointOf(a); p != points[at] {
		t.Fatalf("restored at %d: %+v, want %+v", at, p, points[at])
	}
	got := slices.Clone(masked)
	for i := at; i < len(got); i++ {
		got[i] = false
	}
	maskedBytes(t, got, a.Mask(nil, x.resp[at:]), at, len(x.resp)-at)
	if !slices.Equal(got, masked) {
		t.Fatalf("restored at %d: masked %s, want %s", at, show(x.resp, got), show(x.resp, masked))
	}
	give(t, a, x.resp[at:], at, func(off int) {
		if p := pointOf(a); p != points[off] {
			t.Fatalf("restored at %d, offset %d: %+v, want %+v", at, off, p, points[off])
		}
	})
}
