package e2e

import (
	"testing"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab/traffic"
)

// parked are the numbers of connections without endpoints, by service.
func (p *pair) parked(node string) map[string]int {
	n := make(map[string]int)
	for _, s := range p.status(node).Services {
		n[s.Name] = s.Parked
	}
	return n
}

// What is idle is parked, and goes on: on the same appliance, and on its successor.
func TestParked(t *testing.T) {
	const idle, kept = 200, 20
	o := keptOptions(2, config.ProtectHot)
	o.tune = func(c *config.Config) {
		for i := range c.Services {
			c.Services[i].ParkAfter = time.Second
		}
	}
	p, _ := startKept(t, o)
	c := newCouple(p, o)
	rounds := func(cl *traffic.Client, n int) func() {
		finish := make(chan struct{})
		cl.Finish = finish
		wait := p.run(cl, traffic.Times(n, traffic.Idle(0))...)
		p.await("all are open", func() bool { return cl.Progress.Rounds.Load() >= int64(n) })
		return func() {
			t.Helper()
			close(finish)
			wait()
		}
	}
	first, second := rounds(p.client(portKept), kept), rounds(p.client(portKept), kept)
	crowd := p.crowd(idle)
	p.await("all are parked", func() bool { n := p.parked("a"); return n["web"] == idle && n["kept"] == 2*kept })
	first()
	p.await("those that are left are parked still", func() bool { n := p.parked("a"); return n["web"] == idle && n["kept"] == kept })
	if k := p.kept("a"); k.Lost > 0 || k.Replays != 2*kept {
		t.Errorf("a replica was lost: %+v", k)
	}
	c.inSync()
	dead := c.procs["a"]
	p.kill(dead)
	p.await("b is active", func() bool { return p.status("b").Role == control.RoleActive })
	p.await("all are parked again", func() bool { n := p.parked("b"); return n["web"] == idle && n["kept"] == kept })
	crowd()
	second()
	p.await("none is parked when all have ended", func() bool { n := p.parked("b"); return n["web"] == 0 && n["kept"] == 0 })
}
