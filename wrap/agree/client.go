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
	hello   question
	timeout time.Duration
	serial  uint64
	link
	broken  error // why nobody decides
	tried   time.Time
	in, out []byte
}

// link is the connection with one of those that may decide.
type link struct {
	conn   net.Conn // nil: none
	reader *bufio.Reader
	choice int
}

const (
	// retryAfter is how long a server whose questions are not answered any more waits until it tries again, for connections that begin then.
	retryAfter = 5 * time.Second
	// turns is how often one of several is asked at least, in turn with the others, before there is no answer any more.
	turns = 4
	// roundPause is how long a server waits that has asked each once, and nobody decides.
	roundPause = 5 * time.Millisecond
)

// Dial connects a server. No question takes longer than timeout: after that there are no answers any more for what is served then.
// With addresses the server is called what its key says, and whoever of them does not answer is left for the next one, who is asked the same again.
func Dial(at Place, server string, timeout time.Duration) (*Client, error) {
	c := &Client{at: at, hello: question{op: askHello, server: server, run: nonce()}, timeout: timeout}
	if err := c.begin(); err != nil {
		return nil, fmt.Errorf("asking for determinants at %s: %w", at, err)
	}
	return c, nil
}

// begin looks for who decides.
func (c *Client) begin() error {
	c.tried, c.broken = time.Now(), nil
	_, err := c.ask(question{})
	return err
}

// connect says who we are to the one whose turn it is.
func (c *Client) connect(until time.Time) error {
	conn, err := c.at.dial(c.choice, until)
	if err != nil {
		return err
	}
	c.conn, c.reader = conn, bufio.NewReader(conn)
	if _, err = c.once(c.hello, until); err != nil {
		return fmt.Errorf("%s says: %w", conn.RemoteAddr(), err) // another one may let us in
	}
	return nil
}

// hangUp ends the connection: an answer that comes late would be taken for another question's.
func (c *Client) hangUp() {
	if c.conn != nil {
		c.conn.Close()
		c.conn, c.reader = nil, nil
	}
	c.choice = (c.choice + 1) % c.at.choices()
}

// refusal is an answer: nobody else is to be asked.
type refusal struct{ error }

// once asks who is connected.
func (c *Client) once(q question, until time.Time) (a answer, err error) {
	if c.out, err = q.append(c.out[:0]); err != nil {
		return a, refusal{err}
	}
	if err = c.conn.SetDeadline(until); err != nil {
		return a, err
	}
	if _, err = c.conn.Write(c.out); err != nil || q.op == askLeave {
		return a, err
	}
	if c.in, err = receive(c.reader, c.in); err != nil {
		return a, err
	}
	return parseAnswer(q.op, c.in)
}

// ask asks a question until somebody answers; one of no kind only finds somebody. The value of the answer is good until the next one.
func (c *Client) ask(q question) (a answer, err error) {
	if c.broken != nil {
		return a, c.broken
	}
	until := time.Now().Add(c.timeout)
	for n := 1; ; n++ {
		turn := until
		if c.at.choices() > 1 { // whose host has died says nothing
			if t := time.Now().Add(c.timeout / turns); t.Before(until) {
				turn = t
			}
		}
		if err = nil; c.conn == nil {
			err = c.connect(turn)
		}
		if c.conn != nil && err == nil && q.op != 0 {
			a, err = c.once(q, turn)
		}
		if _, final := err.(refusal); err == nil || final {
			return a, err
		}
		c.hangUp()
		if c.at.choices() == 1 || time.Until(until) <= 0 {
			c.broken = fmt.Errorf("nobody decides: %w", err)
			return a, c.broken
		}
		if n%c.at.choices() == 0 {
			time.Sleep(min(roundPause, time.Until(until)))
		}
	}
}

// Join implements determinant.Authority.
func (c *Client) Join(of determinant.Connection) (determinant.Instance, error) {
	if c.broken != nil && time.Since(c.tried) > retryAfter {
		if err := c.begin(); err != nil {
			return determinant.Instance{}, err
		}
	}
	c.serial++
	a, err := c.ask(question{op: askJoin, of: of, serial: c.serial})
	return a.instance, err
}

// Decide implements determinant.Authority.
func (c *Client) Decide(n determinant.Name, proposal []byte) ([]byte, error) {
	a, err := c.ask(question{op: askDecide, name: n, proposal: proposal})
	return a.value, err
}

// Leave implements determinant.Authority. Nothing depends on an answer, and none is waited for; nor is anybody looked for who could be
// told: with the connection the server's part has ended.
func (c *Client) Leave(instance uint64) error {
	if c.conn == nil {
		return c.broken
	}
	_, err := c.once(question{op: askLeave, name: determinant.Name{Instance: instance}}, time.Now().Add(c.timeout/turns))
	if err != nil {
		c.hangUp()
	}
	return nil
}

// Close ends the server's part.
func (c *Client) Close() error {
	if c.conn == nil {
		return nil
	}
	return c.conn.Close()
}
