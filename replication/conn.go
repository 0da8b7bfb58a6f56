package replication

import "lockstep/replication/wire"

// connState is where a connection is in its life on the active.
type connState uint8

const (
	stateOpening     connState = iota // record on its way to the standby
	stateOpen                         // record held
	stateClosing                      // Close(Finished) on its way; ended for the shell
	stateDropping                     // Close(Unprotected) on its way; the gate is still closed
	stateUnprotected                  // the standby does not know it
)

// half is one stream of a connection on the active. Offsets count the FIN as one
// byte; the order between them is in the package comment.
type half struct {
	received, shipped, held    uint64
	delivered, reported, known uint64
	permit                     uint64
	finAt                      uint64 // offset of the FIN, if fin
	fin                        bool
	// finNeeds is how far the other stream was delivered when the FIN's acknowledgement
	// became due, see conn.allowed.
	finNeeds uint64

	// Of a logged connection. keeps, the request: the standby keeps it from the
	// checkpoint logAt on. capped, the response: it was released up to logAt (the FIN
	// does not count), and no more than that is reported.
	keeps, capped bool
	logAt         uint64
}

// safe is how far the receiver's acknowledgements may be reported: delivered, but
// not beyond what we know to have been received. A caller's Delivered may overtake
// its Received; reporting it then could hide a FIN in a byte count.
func (h *half) safe() uint64 {
	n := min(h.delivered, h.received)
	if h.capped && n > h.logAt && !(h.fin && h.logAt == h.finAt) {
		n = h.logAt
	}
	return n
}

// low is from where on the standby keeps what it has, once it knows that the receiver
// has acknowledged up to delivered.
func (h *half) low(delivered uint64) uint64 {
	if h.keeps {
		return min(delivered, h.logAt)
	}
	return delivered
}

// dataEnd is the offset behind the last byte received, the FIN not counted.
func (h *half) dataEnd() uint64 {
	if h.fin {
		return min(h.received, h.finAt)
	}
	return h.received
}

// store is how many bytes the standby keeps once it has applied what is pending; it
// keeps no byte for the FIN.
func (h *half) store() uint64 {
	low := h.low(h.reported)
	n := h.shipped - min(low, h.shipped)
	if h.fin && h.shipped > h.finAt && low <= h.finAt {
		n--
	}
	return n
}

// finReported tells whether reported includes the FIN.
func (h *half) finReported() bool { return h.fin && h.reported > h.finAt }

// conn is one connection on the active.
type conn struct {
	id      ConnID
	session uint32 // of active.session in which it was opened; in another it is unprotected
	gen     uint32 // counts reuses of this struct, so that old references are void
	state   connState
	dirty   bool     // in active.dirty: delivered has moved
	opened  bool     // was in Ready.Opened
	ended   bool     // Close was called, the table waits for a confirmation
	spliced bool     // passed on: its streams stay at 0, see splice.go
	legs    int      // batches under way that carry a new server leg, or take back the old one
	s       *[2]half // active.none until something may be said of its streams
	log     *connLog // nil: not logged

	markIn uint64 // batch.seq of the batch that has a mark of it
	markAt int    // its position there

	all link[conn] // every connection, in order of opening
	// snap: it is to be adopted for the standby that has joined. asked: and was in
	// Ready.Adopt.
	snap  link[conn]
	asked bool
	age   link[conn] // response pending, oldest first
	// since is when the response's permit last advanced while it was pending.
	since Nanos
}

// allowed is how far the sender of stream s may be acknowledged: what the standby holds,
// or knows to be delivered. The ACK of its FIN is what lets the sender forget the
// connection, and then it can no longer be asked how far it got in the other stream, which
// it receives. So that ACK waits until the standby knows that, too.
func (e *conn) allowed(s Stream) uint64 {
	h, other := &e.s[s], &e.s[s^1]
	n := max(h.held, h.known)
	if h.fin && n > h.finAt && other.known < h.finNeeds {
		n = h.finAt
	}
	return n
}

// link makes a struct a member of an intrusive list.
type link[T any] struct {
	prev, next *T
	in         bool
}

// list is a doubly linked list of structs that carry their own links; at returns
// the link that belongs to this list. The zero links mean: not a member.
type list[T any] struct {
	first, last *T
	n           int
}

func (l *list[T]) pushBack(e *T, at func(*T) *link[T]) {
	k := at(e)
	k.prev, k.next, k.in = l.last, nil, true
	if l.last != nil {
		at(l.last).next = e
	} else {
		l.first = e
	}
	l.last = e
	l.n++
}

func (l *list[T]) pushFront(e *T, at func(*T) *link[T]) {
	k := at(e)
	k.prev, k.next, k.in = nil, l.first, true
	if l.first != nil {
		at(l.first).prev = e
	} else {
		l.last = e
	}
	l.first = e
	l.n++
}

// remove takes e out if it is a member.
func (l *list[T]) remove(e *T, at func(*T) *link[T]) {
	k := at(e)
	if !k.in {
		return
	}
	if k.prev != nil {
		at(k.prev).next = k.next
	} else {
		l.first = k.next
	}
	if k.next != nil {
		at(k.next).prev = k.prev
	} else {
		l.last = k.prev
	}
	*k = link[T]{}
	l.n--
}

func connAll(c *conn) *link[conn] { return &c.all }
func connAge(c *conn) *link[conn] { return &c.age }

// connRef is a reference that outlives its connection safely.
type connRef struct {
	c   *conn
	gen uint32
}

func (r connRef) get() *conn {
	if r.c.gen != r.gen {
		return nil
	}
	return r.c
}

// mark remembers in a batch what its confirmation means for one connection.
type mark struct {
	connRef
	shipped, reported [2]uint64
	what              markBits
}

type markBits uint8

const (
	markOpen  markBits = 1 << iota // the record is in this batch
	markClose                      // Close(Finished) is
	markDrop                       // Close(Unprotected) is
	markLeg                        // another server leg is
)

// batch is one group of entries: gathering, waiting, or in flight. Once in flight
// only marks matter; buf is then the storage that Flush was given in exchange.
type batch struct {
	seq   uint64 // unique over all sessions
	index uint64 // in this session, from 1
	buf   []byte // frame: header room, entries
	marks []mark
	lives []Held // decisions in it: see decide.go
	data  uint64 // stream bytes, for the lag
	since Nanos  // when its first entry was made
}

func (b *batch) empty() bool { return len(b.buf) <= wire.HeaderLen }

// queue is a FIFO of batches. Its storage is reused.
type queue struct {
	b    []*batch
	head int
}

func (q *queue) len() int      { return len(q.b) - q.head }
func (q *queue) front() *batch { return q.b[q.head] }
func (q *queue) push(b *batch) { q.b = append(q.b, b) }

func (q *queue) pop() *batch {
	b := q.b[q.head]
	q.b[q.head] = nil
	q.head++
	if q.head == len(q.b) {
		q.b, q.head = q.b[:0], 0
	} else if q.head >= 32 && q.head*2 >= len(q.b) {
		n := copy(q.b, q.b[q.head:])
		clear(q.b[n:])
		q.b, q.head = q.b[:n], 0
	}
	return b
}
