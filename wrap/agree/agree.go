// Package agree lets supervisors on one machine ask for determinants over a unix socket.
//
// It owns the socket, its messages and its limits. It must not know what a determinant means, nor who asks why.
//
//	agree.go    who decides
//	client.go   who asks
//	message.go  what is said
package agree

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"lockstep/wrap/determinant"
)

// maxServers bounds those that are connected at a time.
const maxServers = 64

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
	var in, out []byte
	for {
		var err error
		if in, err = receive(r, in); err != nil {
			return
		}
		q, err := parseQuestion(in)
		if err != nil {
			return
		}
		a, err := s.answer(c, q)
		if err != nil {
			a = answer{op: saysNo, value: []byte(err.Error())}
		}
		if q.op == askLeave {
			continue
		}
		out = a.append(out[:0])
		if _, err := c.Write(out); err != nil {
			return
		}
	}
}

func (s *server) answer(c net.Conn, q question) (answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	server := s.open[c]
	if server == "" && q.op != askHello {
		return answer{}, errors.New("say first which server it is")
	}
	switch q.op {
	case askHello:
		for _, taken := range s.open {
			if taken == q.server {
				return answer{}, fmt.Errorf("server %q is here already: each needs a name of its own", q.server)
			}
		}
		if q.server == "" || server != "" {
			return answer{}, errors.New("a server says once which it is")
		}
		s.open[c] = q.server
		s.log.Arrive(q.server)
	case askJoin:
		in, err := s.log.Join(server, q.of)
		return answer{op: saysYes, instance: in}, err
	case askDecide:
		v, err := s.log.Decide(server, q.name, q.proposal)
		return answer{op: saysYes, value: v}, err
	case askLeave:
		s.log.Leave(server, q.name.Instance)
	}
	return answer{op: saysYes}, nil
}
