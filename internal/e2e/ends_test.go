package e2e

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab"
)

// dial connects from the client host to addr.
func (p *pair) dial(addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return p.Client.DialContext(ctx, "tcp", addr)
}

// accepts listens on a server and gives each connection to handle.
func (p *pair) accepts(h *lab.Host, network, addr string, handle func(net.Conn)) {
	p.t.Helper()
	ln, err := h.Listen(network, addr)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go handle(c)
		}
	}()
}

// listenRaw accepts on s1 port 81 and gives each connection to handle.
func (p *pair) listenRaw(handle func(net.Conn)) {
	p.t.Helper()
	p.accepts(p.Servers[0], "tcp4", "10.20.0.11:81", handle)
}

// rawService is a second service, port 81, beside the traffic server's.
func rawService(set ...func(*config.Service)) config.Service {
	return service("raw", []string{"203.0.113.10:81"}, []string{"10.20.0.11:81"}, set...)
}

// gone waits until no connection and no leg is left on either appliance.
func (p *pair) gone() {
	p.t.Helper()
	p.await("no connection is left", func() bool {
		a, b := p.status("a"), p.status("b")
		return a.Connections.Open == 0 && a.Connections.HalfOpen == 0 && b.Connections.Open == 0 &&
			a.Connections.Protected == 0 && a.Connections.Unprotected == 0
	})
}

func TestClientResetReachesServer(t *testing.T) {
	p := start(t, options{extra: []config.Service{rawService()}})
	got := make(chan error, 1)
	p.listenRaw(func(c net.Conn) {
		_, err := io.Copy(io.Discard, c)
		got <- err
	})
	c, err := p.dial(lab.VIP4 + ":81")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
	if err := <-got; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("server saw %v, want a reset", err)
	}
	p.gone()
}

func TestServerResetReachesClient(t *testing.T) {
	p := start(t, options{extra: []config.Service{rawService()}})
	p.listenRaw(func(c net.Conn) {
		io.ReadFull(c, make([]byte, 5))
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	})
	c, err := p.dial(lab.VIP4 + ":81")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("client saw %v, want a reset", err)
	}
	p.gone()
}

// A server answers and closes without having read all of the request, as for a long POST
// that it refuses: its kernel sends the answer and then a RST. Every client gets the
// whole answer, then ECONNRESET.
func TestAnswerBeforeReset(t *testing.T) {
	const conns, size = 50, 10 << 10 // bytes: what the kernel sends at once; the rest it drops
	p := start(t, options{extra: []config.Service{rawService()}})
	p.listenRaw(func(c net.Conn) {
		io.ReadFull(c, make([]byte, 5))
		c.Write(make([]byte, size))
		c.Close()
	})
	for i := range conns {
		c, err := p.dial(lab.VIP4 + ":81")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(make([]byte, 2000)); err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, c)
		if n != size || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("client %d got %d bytes and %v, want %d and a reset", i, n, err, size)
		}
		c.Close()
	}
	p.gone()
}

// Nobody listens on the server: the client is refused, as without a gateway.
func TestRefusedServer(t *testing.T) {
	p := start(t, options{extra: []config.Service{rawService()}})
	if _, err := p.dial(lab.VIP4 + ":81"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("client saw %v, want a refusal", err)
	}
	// A port of the virtual address that is no service is refused as well.
	if _, err := p.dial(lab.VIP4 + ":99"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("client saw %v on a port without service, want a refusal", err)
	}
	p.gone()
}

// The server does not answer at all: nor does the client get an answer.
func TestSilentServer(t *testing.T) {
	p := start(t, options{extra: []config.Service{rawService()}})
	if err := p.Back.PortOf(p.Servers[0]).SetLink(false); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	c, err := p.Client.DialContext(ctx, "tcp", lab.VIP4+":81")
	if err == nil {
		c.Close()
		t.Fatal("connected although the server is unplugged")
	}
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("client saw %v, want silence or unreachable", err)
	}
}

// The second server serves when the first refuses.
func TestNextServer(t *testing.T) {
	p := start(t, options{extra: []config.Service{service("raw", []string{"203.0.113.10:81"}, []string{"10.20.0.11:81", "10.20.0.12:80"})}})
	c, err := p.dial(lab.VIP4 + ":81")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	p.gone()
}

func TestIdleTimeout(t *testing.T) {
	p := start(t, options{extra: []config.Service{rawService(func(s *config.Service) { s.Limits.Idle = 2 * time.Second })}})
	p.listenRaw(func(c net.Conn) { io.Copy(c, c) })
	c, err := p.dial(lab.VIP4 + ":81")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("idle client saw %v, want a reset", err)
	}
	p.gone()
}

// A planned end: SIGTERM hands over as a crash does, and the process leaves
// nothing behind.
func TestTerminate(t *testing.T) {
	p := start(t, options{extra: []config.Service{rawService()}})
	p.listenRaw(func(c net.Conn) { io.Copy(c, c) })
	c, err := p.dial(lab.VIP4 + ":81")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	echo := func(s string) {
		t.Helper()
		if _, err := c.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, len(s))
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.ReadFull(c, b); err != nil || string(b) != s {
			t.Fatalf("echo of %q: %q, %v", s, b, err)
		}
	}
	echo("before")
	if err := p.a.Terminate(10 * time.Second); err != nil {
		t.Errorf("a ended with %v", err)
	}
	p.await("b is active", func() bool { return p.status("b").Role == control.RoleActive })
	echo("after")
	out, err := p.inspect(p.A, "ip", "rule")
	if err != nil {
		t.Fatal(err)
	}
	if n := countLines(out, "lookup 7400"); n > 0 {
		t.Errorf("%d policy rules left behind:\n%s", n, out)
	}
}

// An active that is stopped while nobody can continue its connections resets them, on both
// sides: no end is left with half a connection.
func TestStopWithoutStandby(t *testing.T) {
	p := start(t, options{alone: true, extra: []config.Service{rawService()}})
	ended := make(chan error, 3)
	wait := func(c net.Conn) {
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		_, err := io.Copy(io.Discard, c)
		c.Close()
		ended <- err
	}
	accepted := make(chan struct{})
	p.listenRaw(func(c net.Conn) { accepted <- struct{}{}; wait(c) })
	idle, err := p.dial("203.0.113.10:81")
	if err != nil {
		t.Fatal(err)
	}
	<-accepted
	go wait(idle)
	if err := p.a.Terminate(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("an end was told: %v", err)
		}
	}
	if !strings.Contains(p.a.Output(), "both ends of each were reset") {
		t.Error("the log does not say it")
	}
}
