package link

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/replication/transport"
	"lockstep/replication/wire"
)

// Session is one authenticated connection with the peer. Send may be called by
// any goroutine, Serve by one, once. A session that nobody serves is not
// noticed to have ended.
type Session struct {
	Peer    wire.Hello // what the peer said last before the session began
	Ours    wire.Hello // what this node said last: the peer decides by it
	Version uint8      // the protocol version both speak
	Dialled bool       // we dialled, the peer accepted
	SaidAt  time.Time  // before Ours was said

	conn         *transport.Conn
	writeTimeout time.Duration

	sendMu sync.Mutex // serialises Send; above the connection's own

	sent, received atomic.Uint64 // bytes of frames

	endOnce sync.Once
	onEnd   func(*transport.Error) // counts; set before the session is handed out
	done    chan struct{}
	err     *transport.Error // written before done is closed
}

// errSend says that Send was called after the session had ended, or ended it.
var errSend = errors.New("link: session has ended")

// Send writes one or more whole frames and returns when the kernel has them:
// one syscall for all, no goroutine in between. It blocks while the peer's
// window is closed, for WriteTimeout at most; then the session ends, because a
// part of a record may have left. The caller may reuse frames afterwards.
func (s *Session) Send(frames []byte) error {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	select {
	case <-s.done:
		return errSend
	default:
	}
	if err := s.conn.Send(frames, s.writeTimeout); err != nil {
		s.end(&transport.Error{Reason: transport.ClosedSend, Err: err})
		return errSend
	}
	s.sent.Add(uint64(len(frames)))
	return nil
}

// Serve reads frames and calls handle with each, in order, on the caller's
// goroutine, until the session ends; it returns why, never nil. A frame is
// valid only until handle returns. An error from handle ends the session.
func (s *Session) Serve(handle func(frame []byte) error) error {
	reader := transport.FrameReader{R: countingReader{s.conn, &s.received}}
	s.end(reader.Run(handle))
	return s.err // ours, or what ended the session before
}

// Secret is what both ends of the session know and nobody else, for a purpose of its
// own each time (RFC 5705; RFC 8446, 7.5).
func (s *Session) Secret(purpose string) ([]byte, error) {
	state := s.conn.ConnectionState()
	b, err := state.ExportKeyingMaterial("EXPORTER-lockstep-"+purpose, nil, 32)
	if err != nil {
		return nil, fmt.Errorf("derive the session's secret for %s: %w", purpose, err)
	}
	return b, nil
}

// Close ends the session. Frames already sent still reach the peer if they can.
func (s *Session) Close() { s.end(&transport.Error{Reason: transport.ClosedLocally}) }

// ended is closed when the session has ended.
func (s *Session) ended() <-chan struct{} { return s.done }

// cause says why the session ended; nil while it lives.
func (s *Session) cause() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

func (s *Session) live() bool { return s.cause() == nil }

// end closes the connection for the first reason given.
func (s *Session) end(reason *transport.Error) {
	s.endOnce.Do(func() {
		s.err = reason
		s.conn.Close()
		close(s.done)
		if s.onEnd != nil {
			s.onEnd(reason)
		}
	})
}

type countingReader struct {
	r io.Reader
	n *atomic.Uint64
}

func (c countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n.Add(uint64(n))
	return n, err
}
