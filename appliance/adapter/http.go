package adapter

// HTTP is the adapter of HTTP/1.0 and HTTP/1.1 (RFC 9110, RFC 9112).
//
// It goes opaque, for good, where the two sides might not agree on what a message is:
// both Content-Length and Transfer-Encoding, a repeated Content-Length, chunked that
// is not the last coding, bare CR or LF, folded lines, another version, a head or a
// queue of requests beyond its limit. Also after 101 (Switching Protocols), after
// CONNECT, and after a response that answers no request.
//
// There is no checkpoint after a response that announced the end of the connection
// (a replacement would not know that it must close), nor after a request that
// authenticates the connection rather than itself (Negotiate, NTLM).
//
// Not hidden: two servers that cut a body into different chunks differ, and so do two
// of which only one sends 100 (Continue), or a header field more. A server that closes
// after a number of requests counts anew when it is started at a checkpoint, and so
// says Connection: close at another request.
type HTTP struct {
	mask    *Mask
	reqs    requests
	replies replies
}

var _ Adapter = (*HTTP)(nil)

// NewHTTP returns the adapter of a new connection. mask names the header fields that
// are not compared; see DefaultMask.
func NewHTTP(mask *Mask) *HTTP {
	return &HTTP{mask: mask, replies: newReplies()}
}

// Request implements Adapter.
func (h *HTTP) Request(b []byte) {
	h.reqs.feed(b)
	h.settle()
}

// RequestEnd implements Adapter.
func (h *HTTP) RequestEnd() { h.reqs.ended = true }

// Response implements Adapter. A piece ends with a response that is not interim.
func (h *HTTP) Response(b []byte) (n int) {
	for n < len(b) {
		k, ev := h.replies.feed(b[n:], &h.reqs, h.mask, nil)
		n += k
		if ev == eventEnd {
			break
		}
	}
	h.settle()
	return n
}

// settle forgets requests that are whole and answered. A response may come before
// the end of its request's body (RFC 9110 section 10.1.1).
func (h *HTTP) settle() {
	if h.replies.opaque {
		h.reqs.giveUp() // what follows an upgrade is not HTTP
		h.reqs.list, h.reqs.first = nil, 0
		return
	}
	for h.replies.answered > 0 {
		r, ok := h.reqs.at(0)
		if !ok || !r.whole {
			return
		}
		h.replies.answered--
		h.replies.bound = h.replies.bound || r.bound
		h.reqs.pop()
		if r.method == methodConnect {
			h.replies.giveUp()
			return
		}
	}
}

// Checkpoint implements Adapter. The start of a connection is one.
func (h *HTTP) Checkpoint() (req uint64, ok bool) {
	r := &h.replies
	if r.opaque || r.stray || r.closing || r.interim || r.bound || r.answered > 0 || r.msg.phase != phaseStart {
		return 0, false
	}
	return h.reqs.from, true
}

// Releasable implements Adapter.
func (h *HTTP) Releasable(b []byte, end bool) (n int) {
	at := h.replies // as it will be after b[:n]
	look := at
	for off := 0; off < len(b); {
		k, _ := look.feed(b[off:], &h.reqs, h.mask, nil)
		off += k
		if look.opaque {
			return len(b)
		}
		if !look.msg.inSection() {
			n, at = off, look
		}
	}
	if end && n < len(b) && at.end(&h.reqs) != Premature {
		return len(b)
	}
	return n
}

// Mask implements Adapter.
func (h *HTTP) Mask(dst [][2]int, b []byte) [][2]int {
	look := h.replies
	sp := spans{list: dst, first: len(dst)}
	for len(b) > 0 {
		n, _ := look.feed(b, &h.reqs, h.mask, &sp)
		sp.base += n
		b = b[n:]
	}
	return sp.list
}

// End implements Adapter.
func (h *HTTP) End() Verdict { return h.replies.end(&h.reqs) }
