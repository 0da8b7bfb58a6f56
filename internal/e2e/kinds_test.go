package e2e

import (
	"testing"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
)

// What the tests of takeovers try one after the other with connections that are ended, at once with such as
// are passed on: every kind of traffic, by each way in which an active goes. The other tests run with
// LOCKSTEP_TEST_PATH=auto, too.
func TestSplicedOfEveryKind(t *testing.T) {
	for name, c := range map[string]struct {
		options
		fault fault
	}{
		"kill, witness": {options{witness: true}, kill},
		"freeze":        {fault: func(p *pair) { p.must(p.a.Stop()) }},
		"unplug": {fault: func(p *pair) {
			for _, n := range []*lab.Network{p.Front, p.Back, p.Sync} {
				p.must(n.PortOf(p.A).SetLink(false))
			}
		}},
		"sync cut":   {fault: func(p *pair) { p.must(p.Sync.PortOf(p.A).SetLink(false)) }},
		"switchover": {fault: func(p *pair) { p.must(p.switchover("a")) }},
		"bad networks": {options{PairOptions: lab.PairOptions{
			Front: lab.NetOptions{Kind: lab.Switch, Faults: lab.Faults{Loss: 0.005, Reorder: 0.01, Duplicate: 0.01, Delay: 200 * time.Microsecond}},
			Back:  lab.NetOptions{Kind: lab.Switch, Faults: lab.Faults{Loss: 0.005, Reorder: 0.01, Duplicate: 0.01, Delay: 200 * time.Microsecond}},
		}}, kill},
	} {
		t.Run(name, func(t *testing.T) {
			c.path = config.PathAuto
			p := start(t, c.options)
			p.patience = 2 * time.Minute // see TestBadNetworks
			if c.witness {
				p.inSync("a", "b")
			}
			p.through(port4, 10*mib, c.fault, everyKind()...)
			if s := p.status("b"); s.Role != control.RoleActive || s.LastTakeover.Lost > 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// everyKind is one connection or more of each that the tests of takeovers have.
func everyKind() []traffic.Request {
	paced := traffic.Flow{Size: 10 * mib, Chunk: 64 << 10, Pace: 5 * time.Millisecond}
	stalled := traffic.Flow{Size: 12 * mib, StallAfter: 4 * mib, StallFor: 2 * time.Second}
	reqs := []traffic.Request{
		traffic.Both(10 * mib), traffic.Download(10 * mib), traffic.Upload(10 * mib),
		traffic.PingPong(500, 100, 1000), traffic.PingPong(500, 2000, 20),
		{Mode: traffic.Stream, Up: traffic.Flow{Size: mib}, Down: paced, Close: traffic.ClientFirst},
		{Mode: traffic.Stream, Up: paced, Down: traffic.Flow{Size: mib}, Close: traffic.ServerFirst},
		{Mode: traffic.Stream, Down: stalled}, {Mode: traffic.Stream, Up: stalled},
	}
	reqs = append(reqs, traffic.Times(50, traffic.Idle(0))...)
	return append(reqs, traffic.Times(200, traffic.Both(4000))...)
}
