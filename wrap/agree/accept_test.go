package agree

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// short is a listener that has no descriptors at first.
type short struct {
	net.Listener
	fails int
	ended chan struct{}
	then  func()
}

func (l *short) Accept() (net.Conn, error) {
	if l.fails > 0 {
		l.fails--
		return nil, &net.OpError{Op: "accept", Err: unix.EMFILE}
	}
	l.then()
	<-l.ended
	return nil, net.ErrClosed
}

// A process that has no descriptor for a moment accepts again afterwards.
func TestShortOfDescriptors(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	said := &strings.Builder{}
	l := &short{fails: 2, ended: make(chan struct{})}
	l.then = func() { cancel(); close(l.ended) } // it has come to a third try
	s := &server{messages: said, open: map[net.Conn]bool{}}
	var joined sync.WaitGroup
	if err := s.accept(ctx, l, &joined); err != nil || l.fails > 0 || !strings.Contains(said.String(), "too many open files") {
		t.Errorf("%v after %d more failures; it said %q", err, l.fails, said)
	}
	closed := &short{ended: make(chan struct{}), then: func() {}}
	close(closed.ended)
	if err := s.accept(context.Background(), closed, &joined); !errors.Is(err, net.ErrClosed) {
		t.Errorf("of a listener that is closed: %v", err)
	}
}
