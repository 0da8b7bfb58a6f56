package e2e

import (
	"testing"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
)

// steersFlows is how connections that are passed on come to go from NIC to NIC.
func steersFlows(c *config.Config) { c.Networks.Steering = config.SteeringFlows }

// goes waits until the active's programs pass segments on.
func (c *couple) goes(when string) {
	c.t.Helper()
	was := c.status(c.active).Steering.Packets["flows"]
	c.await(when+" segments go from NIC to NIC", func() bool {
		s := c.status(c.active).Steering
		return s.Flows > 0 && s.Packets["flows"] > was+100
	})
}

// With steering: flows, connections of requests go from NIC to NIC, through a switchover, a death and a rejoin, with every byte right;
// who has handed over passes nothing on any more.
func TestFlows(t *testing.T) {
	o := options{path: config.PathAuto, tune: steersFlows}
	c := newCouple(start(t, o), o)
	c.await("packets are steered", func() bool { return c.status("a").Steering.On && c.status("b").Steering.On })
	finish := make(chan struct{})
	var waits []func() traffic.Summary
	for _, port := range []string{port4, port6} {
		client := c.client(port)
		client.Finish = finish
		waits = append(waits, c.run(client, traffic.Times(10, traffic.PingPong(20_000, 100, 1000))...), c.run(client, traffic.Times(5, traffic.Idle(0))...))
	}
	c.goes("at first")
	former := c.active
	c.inSync()
	c.exchange()
	left := c.status(former).Steering.Packets["flows"]
	c.goes("after a switchover")
	if n := c.status(former).Steering.Packets["flows"]; n != left {
		t.Errorf("the former active has passed on %d segments more", n-left)
	}
	c.inSync()
	c.both(12 * mib)
	c.failover()
	c.goes("after a death")
	close(finish)
	for _, w := range waits {
		w()
	}
	if s := c.status(c.active).Steering; s.Flows != 0 {
		t.Errorf("%d connections are away, and none is there", s.Flows)
	}
}

// Segments come to the active all the time, whoever answers: however it ends, the last that its programs pass on leaves before its
// successor's first word.
func TestFlowsFallSilent(t *testing.T) {
	for name, fault := range map[string]func(*couple){
		"handed over": func(c *couple) { c.must(c.switchover("a")) },
		"stopped":     func(c *couple) { c.must(c.a.Stop()) },
		"cut off":     func(c *couple) { c.isolate(true) },
		"killed":      func(c *couple) { c.kill(c.a) },
	} {
		t.Run(name, func(t *testing.T) {
			o := options{path: config.PathAuto, tune: steersFlows, PairOptions: lab.PairOptions{Sync: lab.NetOptions{Kind: lab.Switch}}}
			c := newCouple(start(t, o), o)
			c.inSync()
			c.await("packets are steered", func() bool { return c.status("a").Steering.On && c.status("b").Steering.On })
			s, finish := c.listen()
			client := c.client(port4)
			end := make(chan struct{})
			client.Finish = end
			paced := traffic.Flow{Size: 64 << 10, Chunk: 256, Pace: 20 * time.Millisecond} // little enough for a slow machine with the race detector
			wait := c.run(client, append(traffic.Times(10, traffic.Request{Mode: traffic.Stream, Up: paced, Down: paced}),
				traffic.Times(5, traffic.Idle(10*time.Millisecond))...)...)
			c.goes("at first")
			at := time.Now()
			fault(c)
			c.await("b is active", func() bool { return c.status("b").Role == control.RoleActive })
			<-s.began
			close(end)
			wait()
			finish()
			t.Logf("b began %v after a's last word (%s), %v after the fault", -s.overlap(), s.of("a").word, s.of("b").first.Sub(at))
			if d := s.overlap(); d >= 0 {
				t.Errorf("a spoke until %v after b's first word: %s", d, s.of("a").word)
			}
			if s.of("a").last.Before(at) {
				t.Log("a said nothing after the fault")
			}
		})
	}
}
