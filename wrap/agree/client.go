package agree

import (
	"bufio"
	"fmt"
	"net"
	"time"

	"lockstep/wrap/determinant"
)

// Client is a server's side; it implements determinant.Authority. It is not safe for use by several goroutines.
type Client struct {
	at      Place
	server  string
	timeout time.Duration
	conn    net.Conn
	reader  *bufio.Reader
	broken  error // why nobody decides
	tried   time.Time
	in, out []byte
}

// retryAfter is how long a server whose questions are not answered any more waits until it tries again, for connections that begin then.
const retryAfter = 5 * time.Second

// Dial connects a server. No question takes longer than timeout: after that there are no answers any more for what is served then.
// With an Address the server is called what its key says.
func Dial(at Place, server string, timeout time.Duration) (*Client, error) {
	c := &Client{at: at, server: server, timeout: timeout}
	if err := c.connect(); err != nil {
		return nil, fmt.Errorf("asking for determinants at %s: %w", at, err)
	}
	return c, nil
}

func (c *Client) connect() error {
	c.tried = time.Now()
	conn, err := c.at.dial(c.timeout)
	if err != nil {
		return err
	}
	c.conn, c.reader, c.broken = conn, bufio.NewReader(conn), nil
	if _, err := c.ask(question{op: askHello, server: c.server}); err != nil {
		c.fail(err)
		return err
	}
	return nil
}

// fail ends the connection: an answer that comes late would be taken for another question's.
func (c *Client) fail(err error) {
	if c.broken == nil {
		c.conn.Close()
	}
	c.broken = fmt.Errorf("nobody decides: %w", err)
}

// tell sends a question.
func (c *Client) tell(q question) (err error) {
	if c.broken != nil {
		return c.broken
	}
	if c.out, err = q.append(c.out[:0]); err != nil {
		return err
	}
	if err = c.conn.SetDeadline(time.Now().Add(c.timeout)); err == nil {
		_, err = c.conn.Write(c.out)
	}
	if err != nil {
		c.fail(err)
	}
	return c.broken
}

// ask asks a question. The value of the answer is good until the next one.
func (c *Client) ask(q question) (a answer, err error) {
	if err := c.tell(q); err != nil {
		return a, err
	}
	if c.in, err = receive(c.reader, c.in); err != nil {
		c.fail(err)
		return a, c.broken
	}
	return parseAnswer(q.op, c.in)
}

// Join implements determinant.Authority.
func (c *Client) Join(of determinant.Connection) (determinant.Instance, error) {
	if c.broken != nil && time.Since(c.tried) > retryAfter {
		if err := c.connect(); err != nil {
			return determinant.Instance{}, err
		}
	}
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
func (c *Client) Close() error {
	if c.broken != nil {
		return nil
	}
	return c.conn.Close()
}
