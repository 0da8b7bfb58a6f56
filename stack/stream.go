package stack

import (
	"io"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Stream methods: one goroutine at a time. Bytes stay in the receive queue of the
// leg they came on until Discard: the queue is where undelivered bytes are kept,
// so that nothing is copied just to keep it.

// collector gathers slices of a receive queue while netstack walks it.
type collector struct {
	skip, left int
	bufs       [][]byte
}

func (c *collector) Write(p []byte) (int, error) {
	n := len(p)
	if c.skip >= n {
		c.skip -= n
		return n, nil
	}
	p = p[c.skip:]
	c.skip = 0
	if len(p) >= c.left {
		c.bufs = append(c.bufs, p[:c.left])
		c.left = 0
		return n, io.ErrShortWrite // enough: stops the walk
	}
	c.bufs = append(c.bufs, p)
	c.left -= len(p)
	return n, nil
}

// Peek appends to bufs up to limit bytes of the receive queue, from skip bytes
// after its front. The slices stay valid until Discard or the leg's end by this
// goroutine. eof: the peer's FIN follows what was returned and what is skipped. What had
// come in order before a RST stays in the queue (netstack purges only what waits for a
// gap to be filled).
func (l *Leg) Peek(bufs [][]byte, skip, limit int) (_ [][]byte, n int, eof bool) {
	if l.ep == nil || limit <= 0 {
		return bufs, 0, false
	}
	for {
		// The FIN counts only if it was there before the walk: what comes with it
		// is queued before it. And if it is not, look again after the walk:
		// netstack wakes us before it sets the state, but with the lock held that
		// the walk needs, so the state is right then.
		fin := l.finReceived()
		c := collector{skip: skip, left: limit, bufs: bufs}
		_, _ = l.ep.Read(&c, tcpip.ReadOptions{Peek: true})
		n = limit - c.left
		if n == 0 && !fin && l.finReceived() {
			continue
		}
		return c.bufs, n, fin && c.left > 0
	}
}

// finReceived tells from the endpoint's state whether the peer's FIN is in.
func (l *Leg) finReceived() bool {
	switch tcp.EndpointState(l.ep.State()) {
	case tcp.StateCloseWait, tcp.StateClosing, tcp.StateLastAck, tcp.StateTimeWait:
		return true
	case tcp.StateClose:
		return true // LAST-ACK is over: both FINs are acknowledged; or a RST in CLOSE-WAIT
	case tcp.StateError:
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.rxFin > 0 && l.rxNxt >= l.rxFin
	}
	return false
}

// counter discards bytes of the receive queue.
type counter struct{ left int }

func (c *counter) Write(p []byte) (int, error) {
	if len(p) <= c.left {
		c.left -= len(p)
		return len(p), nil
	}
	n := c.left
	c.left = 0
	return n, io.ErrShortWrite
}

// Discard takes n bytes off the front of the receive queue; the window opens.
func (l *Leg) Discard(n int) {
	if n <= 0 || l.ep == nil {
		return
	}
	c := counter{left: n}
	_, _ = l.ep.Read(&c, tcpip.ReadOptions{})
	l.freed(uint64(n - c.left))
}

// slices is a tcpip.Payloader over slices, so that bytes go from one leg's
// receive queue to the other's send queue in one copy.
type slices struct {
	bufs [][]byte // belong to the caller, who may use them afterwards
	skip int      // bytes of bufs[0] that are read
	n    int
}

func (s *slices) Len() int { return s.n }

func (s *slices) Read(p []byte) (int, error) {
	if s.n == 0 {
		return 0, io.EOF
	}
	// netstack probes with an empty slice, and takes io.EOF for the end.
	done := 0
	for len(p) > 0 && len(s.bufs) > 0 {
		k := copy(p, s.bufs[0][s.skip:])
		done += k
		p = p[k:]
		if s.skip += k; s.skip == len(s.bufs[0]) {
			s.bufs, s.skip = s.bufs[1:], 0
		}
	}
	s.n -= done
	return done, nil
}

// Write queues bytes for the peer and returns how many were taken; fewer than
// given when the send buffer is full (Wake tells when there is room), or an
// error when the leg can send no more.
func (l *Leg) Write(bufs [][]byte, n int) (int, error) {
	if l.ep == nil {
		return 0, errWouldBlock
	}
	w := slices{bufs: bufs, n: n}
	k, terr := l.ep.Write(&w, tcpip.WriteOptions{})
	switch terr.(type) {
	case nil:
		return int(k), nil
	case *tcpip.ErrWouldBlock:
		return 0, errWouldBlock
	default:
		return int(k), errorOf(terr)
	}
}

// CloseWrite queues our FIN.
func (l *Leg) CloseWrite() {
	if l.ep != nil {
		_ = l.ep.Shutdown(tcpip.ShutdownWrite)
	}
}
