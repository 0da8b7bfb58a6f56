package replication

// The bytes of a stream are kept in chunks of a few sizes, which go back to a pool
// when the receiver has acknowledged them: a bulk upload runs through the store
// without garbage, and an idle connection keeps none.

const (
	chunkClasses  = 4
	smallestChunk = 512 // bytes; each class is four times the one before
	largestChunk  = smallestChunk << (2 * (chunkClasses - 1))
	// maxPooledBytes bounds each class's unused chunks.
	maxPooledBytes = 4 << 20
)

// chunkPool keeps unused chunks by class.
type chunkPool struct {
	free [chunkClasses][][]byte
}

// get returns an empty chunk for want bytes, or the largest there is.
func (p *chunkPool) get(want uint64) []byte {
	class, size := 0, smallestChunk
	for class < chunkClasses-1 && uint64(size) < want {
		class, size = class+1, size*4
	}
	f := p.free[class]
	if n := len(f); n > 0 {
		b := f[n-1]
		f[n-1] = nil
		p.free[class] = f[:n-1]
		return b[:0]
	}
	return make([]byte, 0, size)
}

func (p *chunkPool) put(b []byte) {
	class := 0
	for size := smallestChunk; size < cap(b); size *= 4 {
		class++
	}
	if len(p.free[class]) < maxPooledBytes/cap(b) {
		p.free[class] = append(p.free[class], b)
	}
}

// stored is one stream of a connection in the standby's store: the bytes from base to
// end, the FIN counted in both but not kept as a byte. base is delivered, but for the
// request of a logged connection whose checkpoint lies below that.
type stored struct {
	base, delivered, end uint64
	due                  uint64 // of an adopted stream: where end has to be at least; 0: it is
	chunks               [][]byte
	skip                 int32 // bytes of chunks[0] that are below base
	fin                  bool  // the stream ends at end
	finDelivered         bool  // and the receiver has acknowledged that
}

// bytes is how many bytes are kept.
func (s *stored) bytes() uint64 {
	n := s.end - s.base
	if s.fin && s.base < s.end {
		n--
	}
	return n
}

// pending is how many bytes the receiver has not acknowledged.
func (s *stored) pending() uint64 { return s.dataEnd() - s.deliveredData() }

// dataEnd is the offset behind the last byte, the FIN not counted.
func (s *stored) dataEnd() uint64 {
	if s.fin {
		return s.end - 1
	}
	return s.end
}

// deliveredData is delivered, the FIN not counted.
func (s *stored) deliveredData() uint64 {
	if s.finDelivered {
		return s.delivered - 1
	}
	return s.delivered
}

// append adds bytes at the end.
func (s *stored) append(p *chunkPool, b []byte) {
	for len(b) > 0 {
		last := len(s.chunks) - 1
		if last < 0 || len(s.chunks[last]) == cap(s.chunks[last]) {
			// Chunks grow with what the stream keeps: memory stays within four times
			// the bytes, and many bytes need few chunks.
			s.chunks = append(s.chunks, p.get(max(uint64(len(b)), s.bytes()/2)))
			last++
		}
		c := s.chunks[last]
		n := min(len(b), cap(c)-len(c))
		s.chunks[last] = append(c, b[:n]...)
		s.end += uint64(n)
		b = b[n:]
	}
}

// drop lets go of the n oldest bytes kept; the caller moves base.
func (s *stored) drop(p *chunkPool, n uint64) {
	gone := 0
	for n > 0 {
		c := s.chunks[gone]
		left := uint64(len(c)) - uint64(s.skip)
		if n < left {
			s.skip += int32(n)
			break
		}
		n -= left
		s.skip = 0
		p.put(c)
		gone++
	}
	if gone == 0 {
		return
	}
	rest := copy(s.chunks, s.chunks[gone:])
	clear(s.chunks[rest:])
	s.chunks = s.chunks[:rest]
	if rest == 0 && cap(s.chunks) > 4 {
		s.chunks = nil
	}
}

// hand returns the bytes kept; they belong to the caller.
func (s *stored) hand() [][]byte {
	b := s.chunks
	if len(b) > 0 {
		b[0] = b[0][s.skip:]
	}
	s.chunks, s.skip = nil, 0
	return b
}
