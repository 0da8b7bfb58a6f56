package courier

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"lockstep/replication/transport"
	"lockstep/replication/wire"
)

// settled is how long a connection must have stood for its loss to be news, after
// which the voter is dialled again without a pause.
const settled = time.Second

// maxWrite is how many bytes of frames are written at once, about.
const maxWrite = 128 << 10

// remote is another voter: what waits for it, and the connection with it.
type remote struct {
	Remote
	c    *Courier
	said transport.Once
	wake chan struct{} // cap 1: something was queued

	mu       sync.Mutex // guards the following; a leaf
	queue    [][]byte   // oldest first, at most Config.Queue
	current  *session   // the newest, live or ended; nil before the first
	up       bool       // Up was told that current is there
	refusal  string
	sent     uint64
	received uint64
	dropped  uint64
}

// session is one connection after its handshake.
type session struct {
	peer    Peer
	version uint8
	conn    *transport.Conn
	born    time.Time

	once sync.Once
	over chan struct{}    // closed by end
	why  *transport.Error // written before over is closed
	done chan struct{}    // closed when run has returned: nothing more is told of it
}

func newSession(conn *transport.Conn, peer *wire.VoterHello) (*session, *transport.Error) {
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, transport.HandshakeError(err)
	}
	return &session{
		peer: Peer{peer.Node, peer.Boot}, version: min(peer.MaxVersion, wire.VoterVersion), conn: conn,
		born: time.Now(), over: make(chan struct{}), done: make(chan struct{}),
	}, nil
}

// end closes the connection for the first reason given.
func (s *session) end(why *transport.Error) {
	s.once.Do(func() {
		s.why = why
		s.conn.Close()
		close(s.over)
	})
}

func (s *session) live() bool {
	select {
	case <-s.over:
		return false
	default:
		return true
	}
}

func newRemote(c *Courier, r Remote) *remote {
	return &remote{Remote: r, c: c, wake: make(chan struct{}, 1)}
}

func (r *remote) enqueue(msg []byte) {
	r.mu.Lock()
	if len(r.queue) >= r.c.cfg.Queue {
		r.queue = append(r.queue[:0], r.queue[1:]...)
		r.dropped++
	}
	r.queue = append(r.queue, msg)
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// take appends frames of what waits to buf, about maxWrite bytes.
func (r *remote) take(buf []byte, version uint8) (frames []byte, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n < len(r.queue) && len(buf) < maxWrite {
		buf, _ = wire.AppendVoterMessage(buf, version, r.queue[n]) // Send has checked its length
		r.queue[n] = nil
		n++
	}
	r.queue = append(r.queue[:0], r.queue[n:]...)
	return buf, n
}

// dialLoop keeps a connection with a voter that we dial.
func (r *remote) dialLoop() {
	defer r.c.wg.Done()
	ctx, cfg := r.c.ctx, &r.c.cfg
	var pause time.Duration
	for {
		s, refusal, err := r.greet()
		switch {
		case ctx.Err() != nil:
			if s != nil {
				s.conn.Close()
			}
			return
		case err != nil:
			if r.said.First((&transport.Error{Err: err}).Gist()) {
				cfg.Log.Info("voter is not reachable yet", "voter", r.Node, "error", err.Error())
			}
			r.setRefusal(err.Error())
		case refusal != nil:
			r.c.note(r, refusal, r.Addr.String())
		default:
			r.run(s)
			if time.Since(s.born) > settled {
				pause = 0
				continue
			}
		}
		pause = min(max(2*pause, cfg.RedialMin), cfg.RedialMax)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// run carries messages on s until it ends. Of two connections with the same voter
// the one that came later goes on, when the other has ended and been told of.
func (r *remote) run(s *session) {
	defer close(s.done)
	stop := context.AfterFunc(r.c.ctx, func() { s.end(&transport.Error{Reason: transport.ClosedLocally}) })
	defer stop()
	r.mu.Lock()
	old := r.current
	r.current = s
	r.mu.Unlock()
	if old != nil {
		old.end(&transport.Error{Reason: transport.ClosedSuperseded})
		<-old.done
	}
	if !s.live() { // a newer one came meanwhile, or the end
		r.c.closed.Add(s.why.Reason)
		return
	}
	r.setUp(s, true)
	written := make(chan struct{})
	go func() {
		defer close(written)
		r.write(s)
	}()
	s.end(r.read(s))
	<-written
	r.c.closed.Add(s.why.Reason)
	r.setUp(s, false)
}

func (r *remote) setUp(s *session, up bool) {
	r.mu.Lock()
	r.up = up
	if up {
		r.refusal = ""
	}
	r.mu.Unlock()
	log := r.c.cfg.Log.With("voter", r.Node)
	switch {
	case up:
		r.said.Forget()
		log.Info("voter connected", "remote", s.conn.RemoteAddr().String(), "version", s.version)
	case r.c.ctx.Err() == nil:
		log.Info("voter's connection ended", "reason", string(s.why.Reason), "error", s.why.Error())
	}
	r.c.cfg.Up(s.peer, up)
}

func (r *remote) write(s *session) {
	var buf []byte
	for {
		var n int
		if buf, n = r.take(buf[:0], s.version); n == 0 {
			select {
			case <-r.wake:
			case <-s.over:
				return
			}
			continue
		}
		if err := s.conn.Send(buf, r.c.cfg.WriteTimeout); err != nil {
			s.end(&transport.Error{Reason: transport.ClosedSend, Err: err})
			return
		}
		r.mu.Lock()
		r.sent += uint64(n)
		r.mu.Unlock()
	}
}

func (r *remote) read(s *session) *transport.Error {
	reader := transport.FrameReader{R: s.conn, Max: wire.HeaderLen + maxMessage}
	return reader.Run(func(frame []byte) error {
		h, payload, err := wire.Decode(frame)
		if err != nil {
			return err
		}
		if h.Type != wire.TypeVoterMessage || h.Version != s.version {
			return fmt.Errorf("frame of type %v and version %d between voters", h.Type, h.Version)
		}
		if !s.live() {
			return errOver // a newer connection waits for this one to fall silent
		}
		r.mu.Lock()
		r.received++
		r.mu.Unlock()
		r.c.cfg.Receive(s.peer, payload)
		return nil
	})
}

var errOver = errors.New("the connection has ended")

func (r *remote) setRefusal(text string) {
	r.mu.Lock()
	r.refusal = text
	r.mu.Unlock()
}

func (r *remote) stats() VoterStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := VoterStats{
		Peer: Peer{Node: r.Node}, Connected: r.up,
		Sent: r.sent, Received: r.received, Dropped: r.dropped, LastRefusal: r.refusal,
	}
	if r.current != nil {
		v.Peer = r.current.peer
	}
	if r.up {
		v.LastRefusal = ""
	}
	return v
}
