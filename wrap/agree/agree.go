// Package agree lets supervisors on one machine ask for determinants over a unix socket, or over TLS.
//
// It owns the socket, its messages and its limits. It must not know what a determinant means, nor who asks why.
//
//	agree.go    who decides
//	client.go   who asks
//	place.go    where, and who is who there
//	socket.go   waiting for an answer
//	message.go  what is said
package agree

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"

	"lockstep/wrap/determinant"
)

// maxServers bounds those that are connected at a time, maxStrangers those that have not said yet who they are: the oldest has
// to go for a newcomer, so that nobody who says nothing keeps a server out.
const (
	maxServers   = 64
	maxStrangers = 16
)

// Serve decides for so many servers until ctx ends. On messages it is said who was refused.
func Serve(ctx context.Context, at Place, servers int, messages io.Writer) error {
	l, err := at.listen()
	if err != nil {
		return err
	}
	s := &server{at: at, messages: messages, log: determinant.NewLog(servers, nonce), open: map[net.Conn]string{}}
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
			return fmt.Errorf("accepting at %s: %w", at, err)
		}
		if !s.add(c) {
			c.Close()
			continue
		}
		joined.Go(func() { s.serve(c) })
	}
}

func nonce() (n [16]byte) {
	_, _ = rand.Read(n[:]) // it never fails (crypto/rand)
	return n
}

type server struct {
	at   Place
	mu   sync.Mutex
	log  *determinant.Log
	open map[net.Conn]string // and who it is
	over bool

	strangers []net.Conn // of open, the oldest first

	messages io.Writer
	said     int
}

// maxRefusals is how many refused connections are told of: a stranger shall not fill a log.
const maxRefusals = 100

func (s *server) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sayLocked(format, args...)
}

func (s *server) sayLocked(format string, args ...any) {
	if s.said++; s.said <= maxRefusals {
		fmt.Fprintf(s.messages, "lockstep wrap: "+format+"\n", args...)
	}
}

func (s *server) add(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return false
	}
	if len(s.strangers) >= maxStrangers {
		oldest := s.strangers[0]
		s.known(oldest)
		oldest.Close()
		s.sayLocked("a connection from %s was closed: %d newer ones have not said either who they are", oldest.RemoteAddr(), maxStrangers)
	}
	s.open[c] = ""
	s.strangers = append(s.strangers, c)
	return true
}

// known ends that c is a stranger, and reports whether it was one.
func (s *server) known(c net.Conn) bool {
	i := slices.Index(s.strangers, c)
	if i >= 0 {
		s.strangers = slices.Delete(s.strangers, i, i+1)
	}
	return i >= 0
}

// hello is what c says first: which server it is.
func (s *server) hello(c net.Conn, name string) error {
	servers := 0
	for _, taken := range s.open {
		if taken == name && name != "" {
			return fmt.Errorf("server %q is here already: each needs a name of its own, and one whose host is gone is missed after %v", name, goneAfter)
		}
		if taken != "" {
			servers++
		}
	}
	switch {
	case servers >= maxServers:
		return fmt.Errorf("%d servers are here already", maxServers)
	case name == "" || !s.known(c):
		return errors.New("a server says once, and soon, which it is")
	}
	s.open[c] = name
	s.log.Arrive(name)
	return nil
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
func (s *server) serve(raw net.Conn) {
	defer func() {
		raw.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		if server := s.open[raw]; server != "" {
			s.log.LeaveAll(server)
		}
		s.known(raw)
		delete(s.open, raw)
	}()
	c, key, err := s.at.accepted(raw)
	if err != nil && !errors.Is(err, net.ErrClosed) {
		s.say("a connection from %s was refused: %v", raw.RemoteAddr(), err)
	}
	if err != nil {
		return
	}
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
		if q.op == askHello && key != "" {
			q.server = key
		}
		a, err := s.answer(raw, q)
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
		return answer{op: saysYes}, s.hello(c, q.server)
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
