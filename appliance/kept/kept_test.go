package kept

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// The log gives back what was put into it, from any offset that is kept, however it
// was cut into pieces and dropped meanwhile.
func TestRequestLog(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var l requestLog
		var all []byte
		start := rng.Uint64N(1 << 20)
		l.base, l.end = start, start
		for range 60 {
			switch rng.IntN(4) {
			case 0, 1:
				var bufs [][]byte
				for range rng.IntN(4) {
					b := make([]byte, rng.IntN(3000))
					for i := range b {
						b[i] = byte(rng.Uint32())
					}
					bufs = append(bufs, b)
					all = append(all, b...)
				}
				if rng.IntN(3) == 0 {
					l.adopt(bufs)
				} else {
					l.append(bufs)
				}
			case 2:
				l.drop(l.base + rng.Uint64N(l.size()+2))
			case 3:
				if l.size() == 0 {
					continue
				}
				off := l.base + rng.Uint64N(l.size())
				limit := rng.IntN(5000) + 1
				bufs, n := l.from(nil, off, limit)
				want := all[off-start:]
				want = want[:min(len(want), limit)]
				if got := bytes.Join(bufs, nil); n != len(want) || !bytes.Equal(got, want) {
					t.Fatalf("seed %d: %d bytes from %d, limit %d: got %d, not the same", seed, len(want), off, limit, n)
				}
			}
			if l.end != start+uint64(len(all)) {
				t.Fatalf("seed %d: end %d, %d bytes appended", seed, l.end, len(all))
			}
		}
		if l.drop(l.end); len(l.chunks) != 0 {
			t.Fatalf("seed %d: %d chunks for no bytes", seed, len(l.chunks))
		}
	}
}

// A reader that follows the points of comparison in whatever pieces finds its own
// digests equal to those kept, and one changed byte is found at the next point.
func TestVerified(t *testing.T) {
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(seed, 2))
		v := verified{open: newDigest(0)}
		size := 1 + rng.IntN(400<<10)
		out := make([]byte, size)
		for i := range out {
			out[i] = byte(rng.Uint32())
		}
		for v.end < uint64(size) {
			n := min(uint64(size)-v.end, 1+rng.Uint64N(50<<10))
			v.open.write(out[v.end : v.end+n])
			v.end += n
			last := v.start
			if len(v.marks) > 0 {
				last = max(last, v.marks[len(v.marks)-1].off)
			}
			if v.end-last >= markEvery {
				v.marks = append(v.marks, mark{v.end, v.open.sum()})
			}
			if rng.IntN(8) == 0 && len(v.closed) < maxCuts {
				v.cut()
			}
		}
		follow := func(b []byte) (found int) {
			own, at := newDigest(0), uint64(0)
			for at < v.end {
				to := v.next(at)
				if to <= at || to > v.end {
					t.Fatalf("seed %d: next point of %d is %d, end %d", seed, at, to, v.end)
				}
				own.write(b[at:to])
				at = to
				sum, cut := v.at(to)
				if own.sum() != sum {
					return int(to)
				}
				if cut {
					own.reset()
				}
			}
			return -1
		}
		if at := follow(out); at >= 0 {
			t.Fatalf("seed %d: equal output differs at %d", seed, at)
		}
		bad := rng.IntN(size)
		out[bad] ^= 1
		if at := follow(out); at <= bad || uint64(at) != v.next(uint64(bad)) {
			t.Fatalf("seed %d: byte %d is wrong, found at %d", seed, bad, at)
		}
	}
}

// What a sample says is what was written, and it finds what differs at the beginning and
// at the end of a long response.
func TestSample(t *testing.T) {
	const begin, size = 1000, 10 * headMax
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i * 7)
	}
	fill := func(s *sample, b []byte, step int) {
		s.startAt(begin)
		for len(b) > 0 {
			n := min(step, len(b))
			s.add(b[:n])
			b = b[n:]
		}
	}
	for _, step := range []int{1, 100, tailMax, headMax, size} {
		var s sample
		fill(&s, data, step)
		known := 0
		for off := uint64(0); off < begin+size+10; off++ {
			b, ok := s.at(off)
			if ok && b != data[off-begin] {
				t.Fatalf("step %d: at %d is %d", step, off, b)
			}
			if ok {
				known++
			}
		}
		if known != headMax+tailMax {
			t.Fatalf("step %d: %d bytes are known", step, known)
		}
		for at, exact := range map[int]bool{0: true, 100: true, headMax - 1: true, headMax: false, size - tailMax: true, size - 1: true} {
			other := append([]byte(nil), data...)
			other[at]++
			var o sample
			fill(&o, other, step)
			off, found := differ(&s, &o, begin, begin+size)
			if found != exact || exact && off != begin+uint64(at) {
				t.Errorf("step %d, other at %d: %d, %v", step, at, off, found)
			}
		}
	}
}
