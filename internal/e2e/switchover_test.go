package e2e

import (
	"context"
	"testing"
	"time"

	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
)

// switchover asks the active node to hand over.
func (p *pair) switchover(node string) error {
	c := control.NewClient(p.socket(node))
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return c.Switchover(ctx)
}

// A planned hand-over under load: no connection is lost, and the former active is
// the standby afterwards.
func TestSwitchover(t *testing.T) {
	p := start(t, options{})
	p.through(port4, 20*mib, func(p *pair) {
		if err := p.switchover("b"); err == nil {
			p.t.Error("a standby has handed over")
		}
		if err := p.switchover("a"); err != nil {
			p.t.Fatal(err)
		}
		if a, b := p.status("a"), p.status("b"); b.Role != control.RoleActive || a.Role == control.RoleActive {
			p.t.Errorf("a is %s, b is %s", a.Role, b.Role)
		}
		p.await("a is the standby", func() bool { return p.status("a").Role == control.RoleStandby })
	}, append(traffic.Times(50, traffic.Idle(50*time.Millisecond)), traffic.Both(60*mib))...)
}

// One cable of the active is pulled. Its process lives and the sync link is up: it
// hands over, because the standby has both networks.
func TestCableOfActive(t *testing.T) {
	for name, network := range map[string]func(*pair) *lab.Network{
		"front": func(p *pair) *lab.Network { return p.Front },
		"back":  func(p *pair) *lab.Network { return p.Back },
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, options{})
			p.through(port4, 20*mib, func(p *pair) {
				if err := network(p).PortOf(p.A).SetLink(false); err != nil {
					p.t.Fatal(err)
				}
				p.await("b is active", func() bool {
					return p.status("b").Role == control.RoleActive && p.status("a").Role == control.RoleStandby
				})
			}, traffic.Both(60*mib), traffic.Idle(0))
		})
	}
}

// The active's front or back network swallows everything, but the carrier stays, as on
// a virtual machine: it notices that nobody answers, and hands over.
func TestNobodyAnswers(t *testing.T) {
	for name, network := range map[string]func(*pair) *lab.Network{
		"front": func(p *pair) *lab.Network { return p.Front },
		"back":  func(p *pair) *lab.Network { return p.Back },
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, options{witness: name == "front", PairOptions: lab.PairOptions{
				Front: lab.NetOptions{Kind: lab.Switch}, Back: lab.NetOptions{Kind: lab.Switch}}})
			p.through(port4, 10*mib, func(p *pair) {
				port := network(p).PortOf(p.A)
				for _, d := range []lab.Direction{lab.FromHost, lab.ToHost} {
					if err := port.SetFaults(d, lab.Faults{Loss: 1}); err != nil {
						p.t.Fatal(err)
					}
				}
				p.await("b is active", func() bool {
					return p.status("b").Role == control.RoleActive && p.status("a").Role == control.RoleStandby
				})
			}, traffic.Both(40*mib), traffic.Idle(0))
		})
	}
}

// A hand-over to a standby that stands still, which nobody has noticed: the active takes it
// back and says so, and the connections go on.
func TestSwitchoverIsTakenBack(t *testing.T) {
	p := start(t, options{tune: times(50*time.Millisecond, time.Second)})
	c := p.client(port4)
	finish := make(chan struct{})
	c.Finish = finish
	wait := p.run(c, asleep()...)
	p.await("traffic flows", func() bool { return c.Progress.Received.Load() >= mib })
	p.stopped(p.b, func() {
		err := p.switchover("a")
		if err == nil {
			p.t.Fatal("it has handed over to one that stands still")
		}
		p.t.Log(err) // on a busy machine: that there is no standby
		rounds := c.Progress.Rounds.Load()
		p.await("connections move", func() bool { return c.Progress.Rounds.Load() > rounds+50 })
	})
	p.AwaitInSync()
	if a, b := p.status("a"), p.status("b"); a.Role != control.RoleActive || b.Takeovers > 0 {
		t.Errorf("a is %s; b has taken over %d times", a.Role, b.Takeovers)
	}
	if err := p.switchover("a"); err != nil {
		t.Error("the next one: ", err)
	}
	close(finish)
	wait()
}
