package e2e

import (
	"testing"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
)

// Processes that are not running for a while: they cannot know what has come to pass.

// asleep are connections that move all the time.
func asleep() []traffic.Request {
	paced := traffic.Flow{Size: 8 * mib, Chunk: 16 << 10, Pace: 10 * time.Millisecond}
	return append(traffic.Times(5, traffic.Idle(20*time.Millisecond)),
		traffic.Request{Mode: traffic.Stream, Up: paced, Down: paced}, traffic.Request{Mode: traffic.Stream, Down: paced})
}

// stopped stops a process for a while.
func (p *pair) stopped(proc *lab.Proc, during func()) {
	p.t.Helper()
	if err := proc.Stop(); err != nil {
		p.t.Fatal(err)
	}
	during()
	if err := proc.Cont(); err != nil {
		p.t.Fatal(err)
	}
}

// The standby is stopped and woken. Meanwhile the active goes on alone: what the standby
// holds is behind, and a session that it finds closed is no sign that the active died.
func TestFrozenStandby(t *testing.T) {
	p := start(t, options{tune: times(50*time.Millisecond, 500*time.Millisecond)})
	c := p.client(port4)
	finish := make(chan struct{})
	c.Finish = finish
	wait := p.run(c, asleep()...)
	p.await("traffic flows", func() bool { return c.Progress.Received.Load() >= mib })
	for range 2 {
		p.stopped(p.b, func() {
			p.await("a goes on alone", func() bool {
				s := p.status("a")
				return s.Role == control.RoleActive && s.Connections.Unprotected > 0
			})
			// The gates are open: what moves now only a knows.
			rounds := c.Progress.Rounds.Load()
			p.await("connections move", func() bool { return c.Progress.Rounds.Load() > rounds+50 })
		})
		p.AwaitInSync()
	}
	close(finish)
	wait()
	if a, b := p.status("a"), p.status("b"); a.Role != control.RoleActive || b.Takeovers > 0 {
		t.Errorf("a is %s; b has taken over %d times", a.Role, b.Takeovers)
	}
}

// The standby dies. Its successor, which holds nothing, starts while the only holder of
// the connections stands still for a few seconds.
func TestNewcomerBesideFrozenHolder(t *testing.T) {
	for name, witness := range map[string]bool{"alone": false, "witness": true} {
		t.Run(name, func(t *testing.T) {
			o := options{witness: witness, tune: func(c *config.Config) {
				times(50*time.Millisecond, 300*time.Millisecond)(c)
				c.Pair.StartEmptyAfter = time.Minute
			}}
			p := start(t, o)
			c := p.client(port4)
			finish := make(chan struct{})
			c.Finish = finish
			wait := p.run(c, asleep()...)
			p.await("traffic flows", func() bool { return c.Progress.Received.Load() >= mib })
			holder := func() string { // a busy machine may have made b the active
				if p.status("b").Role == control.RoleActive {
					return "b"
				}
				return "a"
			}()
			standing, newcomer := p.a, "b"
			if holder == "b" {
				standing, newcomer = p.b, "a"
			}
			p.kill(map[string]*lab.Proc{"a": p.a, "b": p.b}[newcomer])
			p.await("the holder is alone", func() bool {
				s := p.status(holder)
				return s.Role == control.RoleActive && s.Connections.Unprotected > 0 && (s.Quorum == nil || s.Quorum.Standby == "")
			})
			p.stopped(standing, func() {
				p.appliance(nil, newcomer, o)
				p.await("the newcomer runs", func() bool { return p.status(newcomer).Role == control.RoleStarting })
				<-time.After(5 * time.Second) // not for synchronisation: so long the holder stands still
				if s := p.status(newcomer); s.Role != control.RoleStarting {
					t.Errorf("the newcomer is %s", s.Role)
				}
			})
			p.await("the pair is whole", func() bool { return p.status(holder).InSync && p.status(newcomer).InSync })
			close(finish)
			wait()
		})
	}
}

// With a witness no lease grows where machines are late, but patience does: an active that stands still for as long as
// it has been seen to, four times over, is mute meanwhile, and nobody takes its place. Its connections go on.
func TestLateWithWitness(t *testing.T) {
	p := start(t, options{witness: true, tune: times(50*time.Millisecond, 500*time.Millisecond)})
	c := p.client(port4)
	finish := make(chan struct{})
	c.Finish = finish
	wait := p.run(c, asleep()...)
	p.await("traffic flows", func() bool { return c.Progress.Received.Load() >= mib })
	takeovers := func() uint64 { return p.status("a").Takeovers + p.status("b").Takeovers }
	late := func(d time.Duration) (standby string, taken uint64) {
		active, standby, before := p.a, "b", takeovers()
		if p.status("b").Role == control.RoleActive { // a busy machine may have made it
			active, standby = p.b, "a"
		}
		p.stopped(active, func() { <-time.After(d) }) // not for synchronisation: for so long it is not running
		p.await("the pair is whole", func() bool { return p.status("a").InSync && p.status("b").InSync })
		return standby, takeovers() - before
	}
	p.await("the standby knows how late the active is", func() bool {
		standby, _ := late(450 * time.Millisecond)
		return p.status(standby).Timing.EffectiveMicros >= 1_600_000
	})
	for try := 0; ; try++ { // the machine may be later than that by itself
		if _, taken := late(1100 * time.Millisecond); taken == 0 {
			break
		}
		if try == 3 {
			t.Error("the active is taken for dead, though it has been as late before")
			break
		}
	}
	close(finish)
	wait()
}
