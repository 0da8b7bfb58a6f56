package carry

import (
	"sync"
	"sync/atomic"

	"lockstep/replication"
)

// MoveMax is how many bytes one stream moves before the other connections get
// their turn.
const MoveMax = 1 << 20

// Stream is where one direction stands. The worker owns what is not atomic.
type Stream struct {
	// Base is the offset of the front of the sender's receive queue; Next that of the
	// first byte not yet written to the receiver; Shipped that of the first not yet
	// handed to the journal.
	Base, Next, Shipped uint64
	FinShipped          bool   // the journal knows of the FIN
	FinPassed           bool   // the receiver has our FIN queued
	End                 uint64 // offset of the FIN, valid with FinPassed

	Delivered atomic.Uint64
	Permit    atomic.Uint64 // the journal's; discard not above it while protected
	NeedFrom  atomic.Uint64 // the journal wants [NeedFrom, NeedTo)
	NeedTo    atomic.Uint64
}

// Flags are what the worker, the journal and the packet path share of a connection.
type Flags struct {
	Opened    atomic.Bool  // the journal holds the record
	Protected atomic.Bool  // gates are closed: what the journal permits is acknowledged
	Paused    atomic.Bool  // the journal was congested; the next permit resumes
	Moved     atomic.Int64 // Duration of when bytes last came or were acknowledged
}

// Teller is the journal, as far as a stream is handed to it.
type Teller interface {
	Data(id replication.ConnID, s replication.Stream, off uint64, bufs [][]byte, fin bool)
	Received(id replication.ConnID, s replication.Stream, off uint64, fin bool)
}

// Tell gives the journal what was read: request bytes at once, of responses only
// how far they go, because the server still has them.
func (s *Stream) Tell(j Teller, conn replication.ConnID, id replication.Stream, bufs [][]byte, n int, eof bool) {
	to := s.Next + uint64(n)
	if id == replication.Response {
		if eof {
			to++
		}
		if to > s.Shipped {
			j.Received(conn, id, to, eof)
			s.Shipped = to
		}
		return
	}
	if to > s.Shipped || eof && !s.FinShipped {
		fresh := bufs
		if s.Shipped > s.Next {
			fresh, _ = After(bufs, int(s.Shipped-s.Next))
		}
		j.Data(conn, id, max(s.Shipped, s.Next), fresh, eof)
		s.Shipped, s.FinShipped = to, eof
	}
}

// Need notes that the journal wants the bytes [from, to).
func (s *Stream) Need(from, to uint64) {
	s.NeedFrom.Store(from)
	s.NeedTo.Store(to)
}

// Raise sets v to off unless it is higher already: news of one leg can come from
// two goroutines, out of order.
func Raise(v *atomic.Uint64, off uint64) {
	for old := v.Load(); off > old; old = v.Load() {
		if v.CompareAndSwap(old, off) {
			return
		}
	}
}

// After returns the part of bufs that follows skip bytes.
func After(bufs [][]byte, skip int) (rest [][]byte, n int) {
	for _, b := range bufs {
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		rest = append(rest, b[skip:])
		n += len(b) - skip
		skip = 0
	}
	return rest, n
}

var bufPool = sync.Pool{New: func() any { b := make([][]byte, 0, 64); return &b }}

// Buffers returns an empty list of slices; Release takes it back.
func Buffers() [][]byte { return (*bufPool.Get().(*[][]byte))[:0] }

// Release takes a list of Buffers back.
func Release(b [][]byte) {
	clear(b)
	if cap(b) <= 4096 {
		b = b[:0]
		bufPool.Put(&b)
	}
}
