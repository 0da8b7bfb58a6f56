package e2e

import (
	"context"
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
