package e2e

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lockstep/appliance/config"
	"lockstep/internal/lab/traffic"
)

// Connections that are passed on survive the active's death, are told to the appliance that comes back, and
// survive that of the second one: bytes both ways, requests, and some that are idle.
func TestSpliced(t *testing.T) {
	for name, o := range map[string]options{
		"client":      {path: config.PathAuto},
		"gateway":     {path: config.PathAuto, source: config.SourceGateway, listen: []string{port4}, servers: []string{"10.20.0.11:80"}},
		"gateway, v6": {path: config.PathAuto, source: config.SourceGateway, listen: []string{port6}, servers: []string{"[fd20::11]:80"}},
	} {
		t.Run(name, func(t *testing.T) { spliced(t, o) })
	}
}

func spliced(t *testing.T, o options) {
	c := newCouple(start(t, o), o)
	addrs := o.listen
	if addrs == nil {
		addrs = []string{port4, port6}
	}
	finish := make(chan struct{})
	const idle = 10
	n := 0
	var waits []func() traffic.Summary
	for _, addr := range addrs {
		client := c.client(addr)
		client.Finish = finish
		flow := traffic.Flow{Size: 40 * mib, Chunk: 16 << 10, Pace: 2 * time.Millisecond}
		reqs := append(traffic.Times(idle, traffic.Idle(0)), traffic.PingPong(5000, 100, 1000), traffic.Request{Mode: traffic.Stream, Up: flow, Down: flow})
		n += idle // the others may end before the second takeover
		waits = append(waits, c.run(client, reqs...))
	}
	passed := func(node string) bool {
		s := c.status(node)
		return s.Services[0].Spliced >= n && s.Services[0].Terminated == 0
	}
	c.await("all are open and passed on", func() bool { return passed(c.active) })
	for range 2 {
		c.inSync()
		c.failover()
		c.await("all are passed on by the successor", func() bool { return passed(c.active) })
		if s := c.status(c.active); s.LastTakeover.Lost > 0 || s.LastTakeover.Connections < n {
			t.Errorf("takeover: %+v", s.LastTakeover)
		}
	}
	close(finish)
	for _, wait := range waits {
		t.Logf("longest gap %v", wait().Gap.Longest)
	}
	c.await("nothing is left", func() bool {
		s := c.status(c.active)
		return s.Connections.Open == 0 && s.Services[0].Spliced == 0
	})
}

// A service with a server of each family and path: auto ends what would have to change families.
func TestSplicedOtherFamily(t *testing.T) {
	p := start(t, options{alone: true, path: config.PathAuto, source: config.SourceGateway, servers: []string{"10.20.0.11:80"}})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, addr := range []string{port4, port6} {
		conn, err := p.Client.DialContext(ctx, "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	p.await("one on each path", func() bool {
		s := p.status("a").Services[0]
		return s.Spliced == 1 && s.Terminated == 1
	})
}

// An active that is stopped while nobody can continue its connections resets those that it passes on, too: wherever
// their ends are with bytes on their way.
func TestSplicedStopWithoutStandby(t *testing.T) {
	raw := rawService(func(s *config.Service) { s.Path = config.PathAuto })
	p := start(t, options{alone: true, extra: []config.Service{raw}})
	const n = 10 // the first is idle, the others are busy
	ended, accepted := make(chan error, 2*n), make(chan struct{})
	read := func(c net.Conn) {
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		_, err := io.Copy(io.Discard, c)
		ended <- err
	}
	var served atomic.Int32
	p.listenRaw(func(c net.Conn) {
		busy := served.Add(1) > 1
		accepted <- struct{}{}
		if !busy {
			read(c)
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		for chunk := make([]byte, 64<<10); ; {
			if _, err := c.Write(chunk); err != nil {
				ended <- err
				return
			}
		}
	})
	for range n {
		c, err := p.dial("203.0.113.10:81")
		if err != nil {
			t.Fatal(err)
		}
		<-accepted
		go read(c)
	}
	p.await("all are passed on", func() bool {
		s := p.status("a").Services
		return s[len(s)-1].Spliced == n
	})
	if err := p.a.Terminate(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	for range 2 * n {
		if err := <-ended; !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("an end was told: %v", err)
		}
	}
}
