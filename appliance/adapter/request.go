package adapter

// maxPipelined is how many requests may be unanswered at a time. With more, the
// request stream is opaque from there. This is the one thing that depends on timing:
// two servers of which one answers later may differ in it, and then the connection
// loses its comparison, never its bytes.
const maxPipelined = 1024

// request is one whose head was read.
type request struct {
	end    uint64 // offset after its body; valid when whole
	whole  bool
	method method
	close  bool // the client asks that its response be the last
	bound  bool // it authenticates the connection
}

// requests follows the request stream and keeps what its responses need.
type requests struct {
	msg    message
	next   uint64 // offset of the next byte to be given
	skip   uint64 // bytes to come that were read before a Restore
	from   uint64 // offset after the last request that is whole and answered
	opaque bool   // nothing after the last request in list is understood
	ended  bool   // by the client's FIN
	list   []request
	first  int // list[first] is the oldest one that is kept
}

// len is how many requests are kept.
func (q *requests) len() int { return len(q.list) - q.first }

// at returns the i-th of them.
func (q *requests) at(i int) (r request, ok bool) {
	if i >= q.len() {
		return request{}, false
	}
	return q.list[q.first+i], true
}

// last returns the newest one, which must exist.
func (q *requests) last() *request { return &q.list[len(q.list)-1] }

// feed reads the next bytes of the stream.
func (q *requests) feed(b []byte) {
	if q.skip > 0 {
		k := min(q.skip, uint64(len(b)))
		q.skip -= k
		b = b[k:]
	}
	for len(b) > 0 {
		if q.opaque {
			q.next += uint64(len(b))
			return
		}
		n, ev := q.msg.feed(b, nil, nil)
		q.next += uint64(n)
		b = b[n:]
		switch ev {
		case eventBad:
			q.giveUp()
		case eventHead:
			q.head()
		case eventEnd:
			q.last().whole, q.last().end = true, q.next
		}
	}
}

// giveUp makes the stream opaque. A request whose body is faulty stays in the list
// and never becomes whole.
func (q *requests) giveUp() {
	q.opaque = true
	q.msg = message{}
}

// head takes a request whose head was read, and finds the framing of its body (RFC
// 9112 section 6.3).
func (q *requests) head() {
	f := &q.msg.fields
	how := framingNone
	switch {
	case q.len() >= maxPipelined:
		q.giveUp()
		return
	case f.found&(foundChunked|foundCoding) != 0:
		// Both lengths, a last coding other than chunked, a coding in HTTP/1.0: this
		// is how requests are smuggled (sections 6.1, 11.2).
		if f.found&(foundLength|foundCoding) != 0 || q.msg.minor == 0 {
			q.giveUp()
			return
		}
		how = framingChunked
	case f.found&foundLength != 0:
		how = framingLength
	}
	r := request{
		method: q.msg.method,
		// Section 9.3.
		close: f.found&foundClose != 0 || q.msg.minor == 0 && f.found&foundKeepAlive == 0,
		bound: f.found&foundBound != 0,
	}
	if r.method == methodConnect {
		// Whether what follows is HTTP is known only when it is answered.
		r.whole, r.end = true, q.next
		q.push(r)
		q.giveUp()
		return
	}
	if q.msg.begin(how) {
		r.whole, r.end = true, q.next
	}
	q.push(r)
}

func (q *requests) push(r request) {
	if q.first > 0 && q.first >= len(q.list)/2 {
		q.list = q.list[:copy(q.list, q.list[q.first:])]
		q.first = 0
	}
	q.list = append(q.list, r)
}

// keepCap is how many requests' room is kept while none is unanswered.
const keepCap = 4

// pop drops the oldest one, which is whole and answered.
func (q *requests) pop() {
	q.from = q.list[q.first].end
	q.first++
	if q.first < len(q.list) {
		return
	}
	q.first = 0
	if cap(q.list) > keepCap {
		q.list = nil
	}
	q.list = q.list[:0]
}

// owed says what the server owes after it has answered the first n requests.
func (q *requests) owed(n int) Verdict {
	r, ok := q.at(n)
	switch {
	case !ok && q.opaque:
		return Unknown
	case !ok:
		return Complete
	case !q.ended:
		return Premature
	case r.whole:
		return Unknown // a server may take the FIN for the client being gone
	case q.opaque:
		return Unknown
	}
	return Complete // a request that will never be whole (RFC 9112 section 8)
}
