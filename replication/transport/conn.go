package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/replication/identity"
)

// Conn is a connection whose TLS handshake is done. Whether the peer's key is a
// pinned one is for Owner to say.
type Conn struct {
	*tls.Conn
	raw *corkConn
}

// Client does the dialling side's TLS handshake on conn, for one protocol. pair,
// if not empty, tells a node that serves several pairs which one is meant. It
// ends when ctx does; the deadline on conn is the caller's.
func Client(ctx context.Context, conn *net.TCPConn, id *identity.Identity, protocol, pair string) (*Conn, *Error) {
	cfg := id.TLS(protocol)
	cfg.ServerName = pair
	raw := newCorkConn(conn)
	c := &Conn{Conn: tls.Client(raw, cfg), raw: raw}
	if err := c.HandshakeContext(ctx); err != nil {
		if isTLS(err) && strings.Contains(err.Error(), "no application protocol") {
			return nil, &Error{Reason: RefusedVersion, ByPeer: true, Err: err,
				Detail: fmt.Sprintf("the peer does not speak %q: upgrade it, or look at its configuration", protocol)}
		}
		return nil, HandshakeError(err)
	}
	return c, nil
}

// Close ends the connection at once. It sends no TLS close_notify: that could
// block on a peer that does not read, and the end of a session means the same
// however it comes.
func (c *Conn) Close() error { return c.raw.Close() }

// Protocol is what the two sides agreed to speak.
func (c *Conn) Protocol() string { return c.ConnectionState().NegotiatedProtocol }

// Send writes whole frames and returns when the kernel has them: one syscall for
// all. It blocks while the peer's window is closed, for timeout at most. After
// an error the connection is of no use, because a part of a record may have left.
// One call at a time.
func (c *Conn) Send(frames []byte, timeout time.Duration) error {
	if err := c.raw.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	c.raw.cork()
	_, err := c.Write(frames)
	if flushErr := c.raw.uncork(); err == nil {
		err = flushErr
	}
	return err
}

// Tune sets the socket's options for a session. They make failures show sooner
// or latency smaller; a kernel that lacks one still carries the session, so their
// errors are of no consequence. userTimeout is how long sent bytes may stay
// unacknowledged.
func (c *Conn) Tune(userTimeout time.Duration) { tune(c.raw.TCPConn, userTimeout) }

// corkConn is the TCP connection beneath TLS. crypto/tls writes each record of
// at most 16 KiB with a syscall of its own; between cork and uncork the
// records are gathered, so that a batch leaves in one. Reads go through a
// buffer for the same reason.
type corkConn struct {
	*net.TCPConn
	r *bufio.Reader // used by the one reader only

	mu     sync.Mutex // guards the following; beneath tls.Conn's own locks
	corked bool
	out    []byte // records gathered while corked
}

const (
	readAhead = 64 << 10
	// keepOut is how much of the gathering buffer stays allocated between
	// batches; a rare larger one is given back.
	keepOut = 512 << 10
)

func newCorkConn(c *net.TCPConn) *corkConn {
	return &corkConn{TCPConn: c, r: bufio.NewReaderSize(c, readAhead)}
}

func (c *corkConn) Read(b []byte) (int, error) { return c.r.Read(b) }

func (c *corkConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.corked {
		c.out = append(c.out, b...)
		return len(b), nil
	}
	return c.TCPConn.Write(b)
}

func (c *corkConn) cork() {
	c.mu.Lock()
	c.corked = true
	c.mu.Unlock()
}

// uncork writes what was gathered. The lock is held over the write: a record
// that TLS itself wants to send meanwhile (a key update) must come after.
func (c *corkConn) uncork() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.corked = false
	_, err := c.TCPConn.Write(c.out)
	if c.out = c.out[:0]; cap(c.out) > keepOut {
		c.out = nil
	}
	return err
}

func tune(c *net.TCPConn, userTimeout time.Duration) {
	_ = c.SetNoDelay(true)
	_ = c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 3})
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		// RFC 5482: how long sent bytes may stay unacknowledged, in milliseconds.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
		// Some systems default to BBR, which paces a batch out over a round
		// trip; on the sync link every such microsecond delays all connections.
		if unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic") != nil {
			_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno")
		}
	})
}
