package agree

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// socket is a connection that is waited for by system calls that block, since the caller's thread has nothing else to do: Go's
// poller would take two more threads' turns for each question. Nothing on it takes longer than its deadline.
type socket struct {
	net.Conn // addresses only
	file     *os.File
	fd       int
	until    time.Time
}

// filer is what TCP's and unix's connections have.
type filer interface{ File() (*os.File, error) }

// newSocket makes a socket of a copy of a connection.
func newSocket(c net.Conn) (*socket, error) {
	f, ok := c.(filer)
	if !ok {
		return nil, fmt.Errorf("a connection of kind %T", c)
	}
	file, err := f.File()
	if err != nil {
		return nil, err
	}
	s := &socket{Conn: c, file: file, fd: int(file.Fd())}
	if err := unix.SetNonblock(s.fd, true); err != nil { // Fd has made it block
		file.Close()
		return nil, err
	}
	return s, nil
}

// SetDeadline is until when all that is asked has to be done.
func (s *socket) SetDeadline(t time.Time) error {
	s.until = t
	return nil
}

// SetReadDeadline and SetWriteDeadline are what TLS sets for its close, which nobody uses.
func (s *socket) SetReadDeadline(time.Time) error  { return nil }
func (s *socket) SetWriteDeadline(time.Time) error { return nil }

// Close closes it.
func (s *socket) Close() error { return s.file.Close() }

func (s *socket) wait(events int16) error {
	for {
		left := time.Until(s.until)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: events}}, int(left.Milliseconds())+1)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

var errEnded = errors.New("the connection was ended")

func (s *socket) Read(b []byte) (int, error) {
	for {
		if err := s.wait(unix.POLLIN); err != nil {
			return 0, err
		}
		n, err := unix.Read(s.fd, b)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		case err != nil:
			return 0, err
		case n == 0:
			return 0, errEnded
		default:
			return n, nil
		}
	}
}

func (s *socket) Write(b []byte) (written int, err error) {
	for written < len(b) {
		n, err := unix.SendmsgN(s.fd, b[written:], nil, nil, unix.MSG_NOSIGNAL)
		switch {
		case err == nil:
			written += n
		case errors.Is(err, unix.EAGAIN):
			if err := s.wait(unix.POLLOUT); err != nil {
				return written, err
			}
		case !errors.Is(err, unix.EINTR):
			return written, err
		}
	}
	return written, nil
}
