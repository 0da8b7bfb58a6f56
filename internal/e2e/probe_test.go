package e2e

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"lockstep/appliance/config"
	"lockstep/internal/lab"
)

// serial is a server of one connection at a time, as inetd's "wait" services, many
// gateways of field buses and `openssl s_server` are. Each connection gets an echo.
func serial(ln net.Listener, accepted *atomic.Int64) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		accepted.Add(1)
		_, _ = io.Copy(conn, conn)
		conn.Close()
	}
}

func (p *pair) dialService(addr string) net.Conn {
	p.t.Helper()
	conn, err := p.Client.DialContext(context.Background(), "tcp", addr)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		p.t.Fatal(err)
	}
	return conn
}

// say sends a line and waits for its echo.
func (p *pair) say(conn net.Conn) {
	p.t.Helper()
	buf := make([]byte, 6)
	if _, err := conn.Write([]byte("hello\n")); err != nil {
		p.t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, buf); err != nil {
		p.t.Fatalf("no answer: %v", err)
	}
}

// A server that serves one connection at a time serves all clients, one after the other,
// under gateway and under log, with everything else left to its default. Nobody connects
// to a server that nobody uses.
func TestOneAtATime(t *testing.T) {
	var accepted [2]atomic.Int64
	p := start(t, options{
		alone: true, PairOptions: lab.PairOptions{Servers: 2},
		extra: []config.Service{
			service("plain", []string{lab.VIP4 + ":7000"}, []string{"10.20.0.11:7000"}),
			service("kept", []string{lab.VIP4 + ":8000"}, []string{"10.20.0.12:8000"}, func(s *config.Service) { s.Protection = config.ProtectLog }),
		},
		serve: func(p *pair) {
			for i, port := range []string{":7000", ":8000"} {
				ln, err := p.Servers[i].Listen("tcp4", port)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { ln.Close() })
				go serial(ln, &accepted[i])
			}
		},
	})
	<-time.After(2 * time.Second) // nothing shows that nothing will come
	for i := range accepted {
		if n := accepted[i].Load(); n != 0 {
			t.Errorf("server %d has accepted %d connections, and nobody uses it", i, n)
		}
	}
	for _, addr := range []string{lab.VIP4 + ":7000", lab.VIP4 + ":8000"} {
		first := p.dialService(addr)
		p.say(first)
		second := p.dialService(addr) // waits for the first
		if _, err := second.Write([]byte("hello\n")); err != nil {
			t.Fatal(err)
		}
		p.say(first)
		first.Close()
		if _, err := io.ReadFull(second, make([]byte, 6)); err != nil {
			t.Errorf("%s: the second client is not served: %v", addr, err)
		}
		second.Close()
	}
	if n := accepted[0].Load(); n != 2 {
		t.Errorf("gateway: %d connections of two clients", n)
	}
}
