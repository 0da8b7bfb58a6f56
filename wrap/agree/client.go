package agree

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/wrap/determinant"
)

// Client is a server's side; it implements determinant.Authority. It is not safe for use by several goroutines.
type Client struct {
	socket  *socket
	reader  *bufio.Reader
	timeout time.Duration
	broken  error
	in, out []byte
}

// socket is waited for by system calls that block, since the caller's thread has nothing else to do: Go's poller would take
// two more threads' turns for each question.
type socket struct {
	file  *os.File
	fd    int
	until time.Time
}

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

// Dial connects a server. No question takes longer than timeout: after that there are no answers any more.
func Dial(path, server string, timeout time.Duration) (*Client, error) {
	conn, err := net.DialTimeout("unix", path, timeout)
	if err != nil {
		return nil, fmt.Errorf("asking for determinants at %s: %w", path, err)
	}
	defer conn.Close() // file is a copy
	file, err := conn.(*net.UnixConn).File()
	if err != nil {
		return nil, fmt.Errorf("asking for determinants at %s: %w", path, err)
	}
	s := &socket{file: file, fd: int(file.Fd())}
	c := &Client{socket: s, reader: bufio.NewReader(s), timeout: timeout}
	err = unix.SetNonblock(s.fd, true) // Fd has made it block
	if err == nil {
		_, err = c.ask(question{op: askHello, server: server})
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("asking for determinants at %s: %w", path, err)
	}
	return c, nil
}

// tell sends a question.
func (c *Client) tell(q question) (err error) {
	if c.broken != nil {
		return c.broken
	}
	if c.out, err = q.append(c.out[:0]); err != nil {
		return err
	}
	c.socket.until = time.Now().Add(c.timeout)
	if _, err = c.socket.Write(c.out); err != nil {
		c.broken = fmt.Errorf("nobody decides: %w", err)
	}
	return c.broken
}

// ask asks a question. The value of the answer is good until the next one.
func (c *Client) ask(q question) (a answer, err error) {
	if err := c.tell(q); err != nil {
		return a, err
	}
	if c.in, err = receive(c.reader, c.in); err != nil {
		c.broken = fmt.Errorf("nobody decides: %w", err)
		return a, c.broken
	}
	return parseAnswer(q.op, c.in)
}

// Join implements determinant.Authority.
func (c *Client) Join(of determinant.Connection) (determinant.Instance, error) {
	a, err := c.ask(question{op: askJoin, of: of})
	return a.instance, err
}

// Decide implements determinant.Authority.
func (c *Client) Decide(n determinant.Name, proposal []byte) ([]byte, error) {
	a, err := c.ask(question{op: askDecide, name: n, proposal: proposal})
	return a.value, err
}

// Leave implements determinant.Authority. Nothing depends on an answer, and none is waited for.
func (c *Client) Leave(instance uint64) error {
	return c.tell(question{op: askLeave, name: determinant.Name{Instance: instance}})
}

// Close ends the server's part.
func (c *Client) Close() error { return c.socket.file.Close() }
