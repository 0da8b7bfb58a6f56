// Package agree lets supervisors on one machine ask for determinants over a unix socket, or over TLS.
//
// It owns the socket, its messages and its limits. It must not know what a determinant means, nor who asks why.
//
//	agree.go    answering
//	decider.go  who decides
//	client.go   who asks
//	place.go    where, and who is who there
//	socket.go   waiting for an answer
//	message.go  what is said
package agree

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// maxServers bounds those that are connected at a time, maxStrangers those that have not said yet who they are: the oldest has
// to go for a newcomer, so that nobody who says nothing keeps a server out.
const (
	maxServers   = 64
	maxStrangers = 16
)

// Serve lets servers ask a decider until ctx ends; none of its answers may take longer than that. On messages it is said who was
// refused. ready, unless it is nil, is called when servers may come.
func Serve(ctx context.Context, at Place, by Decider, messages io.Writer, ready func()) error {
	l, err := at.listen()
	if err != nil {
		return err
	}
	if ready != nil {
		ready()
	}
	s := &server{at: at, decider: by, messages: messages, open: map[net.Conn]bool{}}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var joined sync.WaitGroup
	defer joined.Wait()
	defer s.closeAll()
	return s.accept(ctx, l, &joined)
}

// acceptPause is between two tries to accept a connection. One that fails, for want of descriptors or memory, does not mean that
// the next one will.
const acceptPause = 100 * time.Millisecond

// accept serves who comes until ctx ends.
func (s *server) accept(ctx context.Context, l net.Listener, joined *sync.WaitGroup) error {
	for {
		c, err := l.Accept()
		switch {
		case err == nil && s.add(c):
			joined.Go(func() { s.serve(c) })
		case err == nil:
			c.Close()
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accepting at %s: %w", s.at, err)
		default:
			s.say("no connection can be accepted at %s: %v", s.at, err)
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
		}
	}
}

type server struct {
	at      Place
	decider Decider
	mu      sync.Mutex
	open    map[net.Conn]bool // and whether it is a server's that has said who it is
	over    bool

	strangers []net.Conn // of open, the oldest first

	messages io.Writer
	said     int
	since    time.Time // of said
}

// maxRefusals is how many refused connections are told of in an hour: a stranger shall not fill a log, nor keep it silent for good.
const maxRefusals = 100

func (s *server) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sayLocked(format, args...)
}

func (s *server) sayLocked(format string, args ...any) {
	if time.Since(s.since) > time.Hour {
		s.said, s.since = 0, time.Now()
	}
	if s.said++; s.said <= maxRefusals {
		fmt.Fprintf(s.messages, format+"\n", args...)
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
	s.open[c] = false
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

// admit lets in one that has said who it is.
func (s *server) admit(c net.Conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	servers := 0
	for _, is := range s.open {
		if is {
			servers++
		}
	}
	switch {
	case servers >= maxServers:
		return fmt.Errorf("%d servers are here already", maxServers)
	case !s.known(c):
		return errors.New("a server says once, and soon, which it is")
	}
	s.open[c] = true
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
	a := asker{admit: func() error { return s.admit(raw) }, decider: s.decider, who: Server{Name: key, Address: host(raw.RemoteAddr())}}
	defer a.end()
	r := bufio.NewReader(c)
	var in, out []byte
	for {
		if in, err = receive(r, in); err != nil {
			return
		}
		q, err := parseQuestion(in)
		if err != nil {
			return
		}
		yes, err := a.answer(q)
		switch {
		case errors.Is(err, ErrElsewhere):
			yes = answer{op: saysElsewhere}
		case err != nil:
			yes = answer{op: saysNo, value: []byte(err.Error())}
		}
		if q.op == askLeave {
			continue
		}
		out = yes.append(out[:0])
		if _, err := c.Write(out); err != nil || yes.op == saysElsewhere {
			return
		}
	}
}

// host is the address of a peer's host, if there is one.
func host(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// asker is one server.
type asker struct {
	admit   func() error
	decider Decider
	who     Server
	part    Part // nil: it has not said who it is
}

func (a *asker) end() {
	if a.part != nil {
		a.part.End()
	}
}

func (a *asker) answer(q question) (yes answer, err error) {
	yes.op = saysYes
	switch {
	case a.part == nil && q.op != askHello:
		err = errors.New("say first which server it is")
	case q.op == askHello:
		if a.who.Name == "" {
			a.who.Name = q.server
		}
		if a.who.Name == "" || a.part != nil {
			return yes, errors.New("a server says once which it is")
		}
		a.who.Run = q.run
		part, err := a.decider.Arrive(a.who)
		if err != nil {
			return yes, err
		}
		if err := a.admit(); err != nil {
			part.End()
			return yes, err
		}
		a.part = part
	case q.op == askJoin:
		yes.instance, err = a.part.Join(q.of, q.serial)
	case q.op == askDecide:
		yes.value, err = a.part.Decide(q.name, q.proposal)
	case q.op == askLeave:
		a.part.Leave(q.name.Instance)
	}
	return yes, err
}
