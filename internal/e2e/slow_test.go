package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"lockstep/appliance/config"
	"lockstep/internal/lab/traffic"
)

// slow is a set of connections whose clients do not read until their servers have said everything, but send all the time.
type slow struct {
	c        *couple
	down     int64         // bytes that each server says
	accepted chan struct{} // one for each server that is there
	written  chan struct{} // and that has said everything
	read     chan struct{} // closed: the clients read
	wg       sync.WaitGroup
}

const (
	slowUp   traffic.Pattern = 11
	slowDown traffic.Pattern = 12
)

func newSlow(c *couple, download int64) *slow {
	s := &slow{c: c, down: download, written: make(chan struct{}, 64), accepted: make(chan struct{}, 64), read: make(chan struct{})}
	c.listenRaw(s.serve)
	return s
}

// whole reads to the end, and returns how much there was.
func whole(r io.Reader, want traffic.Pattern) (n int64, err error) {
	for b := make([]byte, 64<<10); err == nil; {
		var k int
		k, err = r.Read(b)
		if bad := want.Verify(b[:k], uint64(n)); bad >= 0 {
			return n, fmt.Errorf("a wrong byte at %d", n+int64(bad))
		}
		n += int64(k)
	}
	if errors.Is(err, io.EOF) {
		return n, nil
	}
	return n, err
}

// send sends to the end, or at a pace until more is closed.
func send(conn net.Conn, p traffic.Pattern, n int64, more <-chan struct{}) (sent int64, err error) {
	pace := time.NewTicker(2 * time.Millisecond)
	defer pace.Stop()
	b := make([]byte, 16<<10)
	for n == 0 || sent < n {
		p.Fill(b, uint64(sent))
		if _, err := conn.Write(b); err != nil {
			return sent, err
		}
		sent += int64(len(b))
		if n > 0 {
			continue
		}
		select {
		case <-more:
			n = sent
		case <-pace.C:
		}
	}
	return sent, conn.(*net.TCPConn).CloseWrite()
}

func (s *slow) serve(conn net.Conn) {
	s.accepted <- struct{}{}
	s.wg.Add(1)
	defer s.wg.Done()
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
	_ = conn.(*net.TCPConn).SetWriteBuffer(64 << 10) // less than what is to be said
	done := make(chan struct{})
	go func() {
		defer close(done)
		if n, err := whole(conn, slowUp); err != nil {
			s.c.t.Errorf("the server got %d bytes: %v", n, err)
		}
	}()
	if n, err := send(conn, slowDown, s.down, nil); err != nil {
		s.c.t.Errorf("the server has said %d bytes: %v", n, err)
	}
	s.written <- struct{}{}
	<-done
}

// dial adds a client.
func (s *slow) dial() {
	s.c.t.Helper()
	conn, err := s.c.dial("203.0.113.10:81")
	if err != nil {
		s.c.t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
	_ = conn.(*net.TCPConn).SetReadBuffer(64 << 10)
	<-s.accepted
	said := make(chan struct{})
	s.wg.Add(2)
	go func() {
		defer s.wg.Done()
		defer close(said)
		if n, err := send(conn, slowUp, 0, s.read); err != nil {
			s.c.t.Errorf("the client has said %d bytes: %v", n, err)
		}
	}()
	go func() {
		defer s.wg.Done()
		defer conn.Close()
		<-s.read
		if n, err := whole(conn, slowDown); n != s.down || err != nil {
			s.c.t.Errorf("the client got %d bytes of %d: %v", n, s.down, err)
		}
		<-said
	}()
}

// The servers of clients that do not read are free as soon as the gateway has taken what they say, while bytes flow the
// other way all the time; and the connections outlive the active before, while and after they come to be ended here.
func TestSlowClients(t *testing.T) {
	o := options{extra: []config.Service{rawService(func(s *config.Service) {
		s.Path, s.SlowClients = config.PathAuto, config.SlowBuffer
	})}}
	c := newCouple(start(t, o), o)
	s := newSlow(c, 4*mib)
	const n = 10
	for range n {
		s.dial()
	}
	raw := func() int {
		all := c.status(c.active).Services
		return all[len(all)-1].Terminated
	}
	c.await("the first is ended here", func() bool { return raw() > 0 })
	c.failover()
	c.await("all are ended here", func() bool { return raw() == n })
	for range n {
		<-s.written
	}
	c.inSync()
	c.failover()
	close(s.read)
	s.wg.Wait()
	c.await("nothing is left", func() bool { return c.status(c.active).Connections.Open == 0 })
}
