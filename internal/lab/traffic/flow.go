package traffic

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// end is one end of a connection at work: the connection with what both ends of the protocol do
// alike.
type end struct {
	conn     net.Conn
	patience time.Duration // no progress for this long is an error
	progress *Progress
	noVerify bool
	quit     <-chan struct{} // ends pauses
}

// rest pauses until then, or until the work is called off.
func (e *end) rest(until time.Time) error {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-e.quit:
		return fmt.Errorf("pause: %w", os.ErrClosed)
	}
}

// errMismatch is wrapped by every error that means wrong bytes.
var errMismatch = errors.New("data is not intact")

// sendFlow writes a flow. sent is how many bytes the kernel took.
func (e *end) sendFlow(p Pattern, f Flow, m *gapMeter) (sent int64, err error) {
	buf := make([]byte, f.chunk())
	next := time.Now()
	for sent < f.Size {
		if sent <= f.PaceAfter {
			next = time.Now()
		}
		if f.Pace > 0 && sent > f.PaceAfter {
			next = next.Add(f.Pace)
			if err := e.rest(next); err != nil {
				return sent, err
			}
			m.skip(time.Now())
		}
		b := buf[:min(int64(len(buf)), f.Size-sent)]
		p.Fill(b, uint64(sent))
		for len(b) > 0 {
			// One deadline per write call; a partial write is progress.
			if err := e.conn.SetWriteDeadline(time.Now().Add(e.patience)); err != nil {
				return sent, fmt.Errorf("send at offset %d: %w", sent, err)
			}
			n, err := e.conn.Write(b)
			sent += int64(n)
			e.progress.Sent.Add(int64(n))
			b = b[n:]
			if err != nil && !(n > 0 && errors.Is(err, os.ErrDeadlineExceeded)) {
				return sent, fmt.Errorf("send at offset %d: %w", sent, e.explain(err))
			}
			m.tick(time.Now())
		}
	}
	return sent, nil
}

// receiveFlow reads and verifies a flow of exactly f.Size bytes; what follows is left unread.
func (e *end) receiveFlow(p Pattern, f Flow, m *gapMeter) (received int64, err error) {
	buf := make([]byte, f.chunk())
	stalled := f.StallFor == 0
	var deadline time.Time
	for received < f.Size {
		if !stalled && received >= f.StallAfter {
			stalled = true
			if err := e.rest(time.Now().Add(f.StallFor)); err != nil {
				return received, err
			}
			m.skip(time.Now())
		}
		limit := f.Size - received
		if !stalled {
			limit = min(limit, max(f.StallAfter-received, 1))
		}
		// Renewing the deadline with every read would cost as much as reading.
		if now := time.Now(); deadline.Sub(now) < e.patience/2 {
			deadline = now.Add(e.patience)
			if err := e.conn.SetReadDeadline(deadline); err != nil {
				return received, fmt.Errorf("receive at offset %d: %w", received, err)
			}
		}
		n, err := e.conn.Read(buf[:min(int64(len(buf)), limit)])
		if n > 0 {
			now := time.Now()
			m.tick(now)
			e.progress.Received.Add(int64(n))
			e.progress.LastReceived.Store(now.UnixNano())
			if !e.noVerify {
				if bad := p.Verify(buf[:n], uint64(received)); bad >= 0 {
					at := uint64(received) + uint64(bad)
					return received + int64(bad), fmt.Errorf("%w: %s", errMismatch, p.diagnose(buf[bad:n], at, 1<<20))
				}
			}
			received += int64(n)
		}
		if err != nil && received < f.Size {
			return received, fmt.Errorf("receive at offset %d of %d: %w", received, f.Size, e.explain(err))
		}
	}
	return received, nil
}

// receiveEnd expects the peer's FIN and nothing before it.
func (e *end) receiveEnd() error {
	if err := e.conn.SetReadDeadline(time.Now().Add(e.patience)); err != nil {
		return fmt.Errorf("wait for the end: %w", err)
	}
	var b [1]byte
	switch n, err := e.conn.Read(b[:]); {
	case n > 0:
		return fmt.Errorf("%w: bytes after the end of the flow", errMismatch)
	case errors.Is(err, io.EOF):
		return nil
	default:
		return fmt.Errorf("wait for the end: %w", e.explain(err))
	}
}

// receiveRound fills b. whole is false when the peer closed before the first byte of it.
func (e *end) receiveRound(b []byte) (whole bool, err error) {
	n, err := io.ReadFull(e.conn, b)
	switch {
	case err == nil:
		e.progress.Received.Add(int64(n))
		e.progress.LastReceived.Store(time.Now().UnixNano())
		return true, nil
	case errors.Is(err, io.EOF):
		return false, nil
	default:
		return false, fmt.Errorf("round: %w", e.explain(err))
	}
}

// closeWrite sends the FIN.
func (e *end) closeWrite() error {
	c, ok := e.conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.New("half-close: the connection cannot")
	}
	if err := c.CloseWrite(); err != nil {
		return fmt.Errorf("half-close: %w", err)
	}
	return nil
}

func (e *end) explain(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("no progress for %v: %w", e.patience, err)
	}
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("the peer closed early: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// setCongestion selects a congestion control by name; "" leaves the default.
func setCongestion(conn net.Conn, name string) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok || name == "" {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return fmt.Errorf("congestion control %q: %w", name, err)
	}
	var optErr error
	err = raw.Control(func(fd uintptr) {
		optErr = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, name)
	})
	if err = errors.Join(err, optErr); err != nil {
		return fmt.Errorf("congestion control %q: %w (hint: see net.ipv4.tcp_available_congestion_control)", name, err)
	}
	return nil
}
