// Package agree lets supervisors on one machine ask for determinants over a unix socket.
//
// It owns the socket, its messages and its limits. It must not know what a determinant means, nor who asks why.
package agree

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"lockstep/wrap/determinant"
)

// What is asked. An answer begins with one of the last two.
const (
	askHello = iota + 1
	askJoin
	askDecide
	askLeave
	saysYes
	saysNo
)

// maxMessage bounds a message, in bytes: a determinant grows by a third in JSON.
const maxMessage = 2 * determinant.MaxValue

// maxServers bounds those that are connected at a time.
const maxServers = 64

// question travels as JSON behind a length: some hundred bytes, and nothing to be kept in step by hand.
type question struct {
	Op       byte
	Server   string                 `json:",omitempty"`
	Of       determinant.Connection `json:",omitzero"`
	Name     name                   `json:",omitzero"`
	Proposal []byte                 `json:",omitempty"`
}

// name is determinant.Name. Its path is bytes, of which a string of JSON does not hold all.
type name struct {
	Instance        uint64
	Path            []byte `json:",omitempty"`
	Kind            determinant.Kind
	Position, Place uint64
}

func (n name) determinant() determinant.Name {
	return determinant.Name{Instance: n.Instance, Path: string(n.Path), Kind: n.Kind, Position: n.Position, Place: n.Place}
}

type answer struct {
	Op       byte
	Instance determinant.Instance `json:",omitzero"`
	Value    []byte               `json:",omitempty"`
	Why      string               `json:",omitempty"`
}

func send(w io.Writer, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	return err
}

func receive(r io.Reader, v any) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxMessage {
		return fmt.Errorf("a message of %d bytes; %d are the limit", n, maxMessage)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	return json.Unmarshal(body, v)
}

// Serve decides for so many servers until ctx ends. The socket is root's alone.
func Serve(ctx context.Context, path string, servers int) error {
	old, err := net.Dial("unix", path)
	if err == nil {
		old.Close()
		return fmt.Errorf("somebody else decides at %s already", path)
	}
	if err := removeSocket(path); err != nil {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("listening at %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return err
	}
	s := &server{log: determinant.NewLog(servers, nonce), open: map[net.Conn]string{}}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var joined sync.WaitGroup
	defer joined.Wait()
	defer s.closeAll()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accepting at %s: %w", path, err)
		}
		if !s.add(c) {
			c.Close()
			continue
		}
		joined.Go(func() { s.serve(c) })
	}
}

// removeSocket removes what was left of an earlier socket, and nothing else.
func removeSocket(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("looking for an earlier socket: %w", err)
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%s is there and no socket: name another path, or remove it", path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("removing what was left of an earlier socket: %w", err)
	}
	return nil
}

func nonce() (n [16]byte) {
	_, _ = rand.Read(n[:]) // it never fails (crypto/rand)
	return n
}

type server struct {
	mu   sync.Mutex
	log  *determinant.Log
	open map[net.Conn]string // and who it is
	over bool
}

func (s *server) add(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || len(s.open) >= maxServers {
		return false
	}
	s.open[c] = ""
	return true
}

func (s *server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	for c := range s.open {
		c.Close()
	}
}

// serve answers one server's questions until it goes; that ends its part in everything.
func (s *server) serve(c net.Conn) {
	defer func() {
		c.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		if server := s.open[c]; server != "" {
			s.log.LeaveAll(server)
		}
		delete(s.open, c)
	}()
	r := bufio.NewReader(c)
	for {
		var q question
		if receive(r, &q) != nil {
			return
		}
		a, err := s.answer(c, q)
		if err != nil {
			a = answer{Op: saysNo, Why: err.Error()}
		}
		if send(c, a) != nil {
			return
		}
	}
}

func (s *server) answer(c net.Conn, q question) (answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	server := s.open[c]
	if server == "" && q.Op != askHello {
		return answer{}, errors.New("say first which server it is")
	}
	switch q.Op {
	case askHello:
		for _, taken := range s.open {
			if taken == q.Server {
				return answer{}, fmt.Errorf("server %q is here already: each needs a name of its own", q.Server)
			}
		}
		if q.Server == "" || server != "" {
			return answer{}, errors.New("a server says once which it is")
		}
		s.open[c] = q.Server
		s.log.Arrive(q.Server)
	case askJoin:
		in, err := s.log.Join(server, q.Of)
		return answer{Op: saysYes, Instance: in}, err
	case askDecide:
		v, err := s.log.Decide(server, q.Name.determinant(), q.Proposal)
		return answer{Op: saysYes, Value: v}, err
	case askLeave:
		s.log.Leave(server, q.Name.Instance)
	default:
		return answer{}, fmt.Errorf("no question has the number %d", q.Op)
	}
	return answer{Op: saysYes}, nil
}

// Client is a server's side; it implements determinant.Authority. It is not safe for use by several goroutines.
type Client struct {
	conn    net.Conn
	reader  *bufio.Reader
	timeout time.Duration
	broken  error
}

// Dial connects a server. No question takes longer than timeout: after that there are no answers any more.
func Dial(path, server string, timeout time.Duration) (*Client, error) {
	conn, err := net.DialTimeout("unix", path, timeout)
	if err != nil {
		return nil, fmt.Errorf("asking for determinants at %s: %w", path, err)
	}
	c := &Client{conn: conn, reader: bufio.NewReader(conn), timeout: timeout}
	if _, err := c.ask(question{Op: askHello, Server: server}); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *Client) ask(q question) (answer, error) {
	if c.broken != nil {
		return answer{}, c.broken
	}
	var a answer
	err := c.conn.SetDeadline(time.Now().Add(c.timeout))
	if err == nil {
		err = send(c.conn, q)
	}
	if err == nil {
		err = receive(c.reader, &a)
	}
	if err != nil {
		c.broken = fmt.Errorf("nobody decides: %w", err)
		return answer{}, c.broken
	}
	if a.Op != saysYes {
		return answer{}, errors.New(a.Why)
	}
	return a, nil
}

// Join implements determinant.Authority.
func (c *Client) Join(of determinant.Connection) (determinant.Instance, error) {
	a, err := c.ask(question{Op: askJoin, Of: of})
	return a.Instance, err
}

// Decide implements determinant.Authority.
func (c *Client) Decide(n determinant.Name, proposal []byte) ([]byte, error) {
	a, err := c.ask(question{
		Op: askDecide, Name: name{n.Instance, []byte(n.Path), n.Kind, n.Position, n.Place}, Proposal: proposal,
	})
	return a.Value, err
}

// Leave implements determinant.Authority.
func (c *Client) Leave(instance uint64) error {
	_, err := c.ask(question{Op: askLeave, Name: name{Instance: instance}})
	return err
}

// Close ends the server's part.
func (c *Client) Close() error { return c.conn.Close() }
