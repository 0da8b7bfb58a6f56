package kept

import "sort"

// requestLog keeps the request bytes [base, end) of a connection: those that a
// replacement of its server would have to be told, and those that some server's leg
// has not taken yet. Only the worker uses it.
type requestLog struct {
	base, end uint64
	chunks    []logChunk
}

// logChunk holds the bytes from off on.
type logChunk struct {
	off uint64
	b   []byte
}

// Sizes of the chunks, bytes: small for the many connections with short requests,
// large enough that an upload is moved in few writes.
const (
	smallestLogChunk = 512
	largestLogChunk  = 64 << 10
)

// size is how many bytes are kept.
func (l *requestLog) size() uint64 { return l.end - l.base }

// append copies bytes to the end.
func (l *requestLog) append(bufs [][]byte) {
	for _, b := range bufs {
		for len(b) > 0 {
			last := len(l.chunks) - 1
			if last < 0 || len(l.chunks[last].b) == cap(l.chunks[last].b) {
				size := smallestLogChunk
				for size < largestLogChunk && (size < len(b) || uint64(size) < l.size()/2) {
					size *= 2
				}
				l.chunks = append(l.chunks, logChunk{off: l.end, b: make([]byte, 0, size)})
				last++
			}
			c := &l.chunks[last]
			n := min(len(b), cap(c.b)-len(c.b))
			c.b = append(c.b, b[:n]...)
			l.end += uint64(n)
			b = b[n:]
		}
	}
}

// adopt appends slices that belong to the log from now on.
func (l *requestLog) adopt(bufs [][]byte) {
	for _, b := range bufs {
		if len(b) > 0 {
			l.chunks = append(l.chunks, logChunk{off: l.end, b: b[:len(b):len(b)]})
			l.end += uint64(len(b))
		}
	}
}

// drop lets go of the bytes below to.
func (l *requestLog) drop(to uint64) {
	if to = min(to, l.end); to <= l.base {
		return
	}
	l.base = to
	gone := 0
	for gone < len(l.chunks) && l.chunks[gone].end() <= to {
		gone++
	}
	if gone == 0 {
		return
	}
	rest := copy(l.chunks, l.chunks[gone:])
	clear(l.chunks[rest:])
	if l.chunks = l.chunks[:rest]; rest == 0 {
		l.chunks = nil
	}
}

func (c *logChunk) end() uint64 { return c.off + uint64(len(c.b)) }

// from appends to bufs up to limit bytes from off on, which is not below base. The
// slices are valid until they are dropped.
func (l *requestLog) from(bufs [][]byte, off uint64, limit int) (_ [][]byte, n int) {
	i := sort.Search(len(l.chunks), func(i int) bool { return l.chunks[i].end() > off })
	for ; i < len(l.chunks) && n < limit; i++ {
		b := l.chunks[i].b
		if off > l.chunks[i].off {
			b = b[off-l.chunks[i].off:]
		}
		b = b[:min(len(b), limit-n)]
		bufs = append(bufs, b)
		n += len(b)
	}
	return bufs, n
}
