package e2e

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab"
)

// The only appliance loses its memory. Both ends of each of its connections are told as soon
// as one of them speaks, also the one that only receives, and though the client has no route
// to the server that its kernel could answer on. A client that talks to a server of the
// service directly, through the appliance as its router, is left alone.
func TestLostConnectionsAreTold(t *testing.T) {
	o := options{alone: true, extra: []config.Service{service("raw", []string{"203.0.113.10:81"}, []string{"10.20.0.11:81", "10.20.0.12:81"})}}
	p := start(t, o)
	speak, told, began := make(chan struct{}), make(chan error, 3), make(chan struct{}, 3)
	serve := func(c net.Conn) {
		kind := make([]byte, 1)
		if io.ReadFull(c, kind); kind[0] == 0 {
			return // a probe
		}
		began <- struct{}{}
		if kind[0] != 'r' {
			<-speak
			c.Write([]byte("!"))
		}
		_, err := io.Copy(c, c)
		told <- err
	}
	p.listenRaw(serve)
	ln, err := p.Servers[1].Listen("tcp4", "10.20.0.12:81")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for c, err := ln.Accept(); err == nil; c, err = ln.Accept() {
			go serve(c)
		}
	}()
	if err := p.Client.Route("10.20.0.12/32", lab.VIP4); err != nil {
		t.Fatal(err)
	}
	open := func(addr, kind string) net.Conn {
		c, err := p.dial(addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := c.Write([]byte(kind)); err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(2 * time.Minute))
		return c
	}
	receives, sends, direct := open(lab.VIP4+":81", "s"), open(lab.VIP4+":81", "r"), open("10.20.0.12:81", "d")
	p.await("both are connections, and the servers know", func() bool { return p.status("a").Connections.Open == 2 && len(began) == 3 })
	p.Kill(p.a)
	p.a = p.appliance(p.A, "a", o)
	p.await("a is active", func() bool { return p.status("a").Role == control.RoleActive })

	if _, err := sends.Write([]byte("more")); err != nil {
		t.Fatal(err)
	}
	close(speak)
	for name, c := range map[string]net.Conn{"receives": receives, "sends": sends} {
		if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("client that %s: %v, want a reset", name, err)
		}
	}
	for range 2 {
		select {
		case err := <-told:
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("server: %v, want a reset", err)
			}
		case <-time.After(time.Minute):
			t.Fatal("a server is not told")
		}
	}
	got := make([]byte, 5)
	if _, err := direct.Write([]byte("echo")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(direct, got); err != nil || string(got) != "!echo" {
		t.Errorf("direct connection: %q, %v", got, err)
	}
}

// A client's machine vanishes. A server that asks (keepalive) learns it in its own time, as
// without a gateway; of a server that does not, the gateway finds out by itself.
func TestDeadPeers(t *testing.T) {
	for _, path := range []config.Path{config.PathAuto, config.PathNetstack} {
		t.Run(string(path), func(t *testing.T) { deadPeers(t, path) })
	}
}

func deadPeers(t *testing.T, path config.Path) {
	// What is asked passes without endpoints, too.
	park := func(s *config.Service) { s.Path, s.ParkAfter = path, time.Second }
	p := start(t, options{alone: true, extra: []config.Service{rawService(park),
		service("asked", []string{"203.0.113.10:82"}, []string{"10.20.0.12:82"}, func(s *config.Service) {
			s.Keepalive = config.Keepalive{Idle: time.Second, Interval: time.Second, Count: 2}
		}, park)}})
	read := make(chan error, 1)
	p.listenRaw(func(c net.Conn) {
		if n, _ := c.Read(make([]byte, 1)); n == 0 {
			return // a probe
		}
		c.(*net.TCPConn).SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 3})
		_, err := c.Read(make([]byte, 1))
		read <- err
	})
	ln, err := p.Servers[1].Listen("tcp4", "10.20.0.12:82")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	silent := make(chan error, 1)
	go func() {
		for c, err := ln.Accept(); err == nil; c, err = ln.Accept() {
			go func() {
				c.(*net.TCPConn).SetKeepAlive(false)
				if n, _ := c.Read(make([]byte, 1)); n > 0 {
					_, err := c.Read(make([]byte, 1))
					silent <- err
				}
			}()
		}
	}()
	for _, addr := range []string{lab.VIP4 + ":81", lab.VIP4 + ":82"} {
		c, err := p.dial(addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	p.await("both stay while their client is there, passed on or parked", func() bool {
		without := 0
		for _, s := range p.status("a").Services {
			without += s.Parked + s.Spliced
		}
		return without == 2 && p.status("a").Connections.Open == 2
	})
	select {
	case err := <-read:
		t.Fatalf("a server whose client is there: %v", err)
	case err := <-silent:
		t.Fatalf("a server whose client is there: %v", err)
	case <-time.After(6 * time.Second): // longer than either needs to find a dead one
	}
	if err := p.Front.PortOf(p.Client).SetLink(false); err != nil {
		t.Fatal(err)
	}
	for name, w := range map[string]struct {
		got  chan error
		want error
	}{"that asks": {read, syscall.ETIMEDOUT}, "that does not ask": {silent, syscall.ECONNRESET}} {
		select {
		case err := <-w.got:
			if !errors.Is(err, w.want) {
				t.Errorf("server %s: %v, want %v", name, err, w.want)
			}
		case <-time.After(time.Minute):
			t.Errorf("server %s does not learn of it", name)
		}
	}
	p.gone()
}
