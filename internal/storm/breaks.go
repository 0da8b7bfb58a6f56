package storm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/internal/bench"
	"lockstep/internal/lab"
	"lockstep/internal/pair"
)

func drawKill(rng *rand.Rand, o *options) *fault {
	target := anyNode(rng, o)
	var victim *pair.Node
	return &fault{
		What: "kill " + target, Length: length(rng),
		inject: func(_ context.Context, s *storm) error {
			victim = s.on(target)
			return victim.Kill()
		},
		heal: func(ctx context.Context, s *storm) error { return victim.Start(ctx) },
	}
}

func drawFreeze(rng *rand.Rand, o *options) *fault {
	target := anyNode(rng, o)
	var victim *pair.Node
	return &fault{
		What: "freeze " + target, Length: length(rng),
		inject: func(_ context.Context, s *storm) error {
			victim = s.on(target)
			return victim.Process().Stop()
		},
		heal: func(context.Context, *storm) error { return victim.Process().Cont() },
	}
}

func drawMute(rng *rand.Rand, _ *options) *fault {
	var others []*pair.Node
	signal := func(send func(*lab.Proc) error) (err error) {
		for _, n := range others {
			err = errors.Join(err, send(n.Process()))
		}
		return err
	}
	return &fault{
		What: "mute: freeze witness and standby", Length: length(rng),
		inject: func(_ context.Context, s *storm) error {
			others = []*pair.Node{s.on(onWitness), s.on(onStandby)}
			return signal((*lab.Proc).Stop)
		},
		heal: func(context.Context, *storm) error { return signal((*lab.Proc).Cont) },
	}
}

func drawPower(rng *rand.Rand, o *options) *fault {
	target := appliance2(rng)
	var victim *pair.Node
	return &fault{
		What: "power " + target, Length: length(rng),
		inject: func(_ context.Context, s *storm) error {
			victim = s.on(target)
			return errors.Join(s.plug(victim, false), victim.Kill())
		},
		heal: func(ctx context.Context, s *storm) error {
			return errors.Join(s.plug(victim, true), victim.Start(ctx))
		},
	}
}

func drawSwitchover(*rand.Rand, *options) *fault {
	return &fault{
		What: "switchover",
		inject: func(ctx context.Context, s *storm) error {
			err := s.on(onActive).Client.Switchover(ctx)
			if err != nil && s.opts.quick {
				return nil // refused while not in sync, as it should be
			}
			return err
		},
		heal: func(context.Context, *storm) error { return nil },
	}
}

func network(rng *rand.Rand) string { return pick(rng, "front", "back", "sync") }

func drawCable(rng *rand.Rand, _ *options) *fault {
	target, where := appliance2(rng), network(rng)
	var port *lab.Port
	return &fault{
		What: "cable " + where + " of " + target, Length: length(rng),
		inject: func(_ context.Context, s *storm) error {
			port = s.port(target, where)
			return port.SetLink(false)
		},
		heal: func(context.Context, *storm) error { return port.SetLink(true) },
	}
}

func drawIsolate(rng *rand.Rand, o *options) *fault {
	target := appliance2(rng)
	var victim *pair.Node
	return &fault{
		What: "isolate " + target, Length: length(rng),
		inject: func(_ context.Context, s *storm) error {
			victim = s.on(target)
			return s.plug(victim, false)
		},
		heal: func(_ context.Context, s *storm) error { return s.plug(victim, true) },
	}
}

// plug puts in, or pulls, all cables of an appliance.
func (s *storm) plug(n *pair.Node, in bool) error {
	var errs []error
	for _, wire := range []*lab.Network{s.pair.Front, s.pair.Back, s.pair.Sync} {
		errs = append(errs, wire.PortOf(n.Host).SetLink(in))
	}
	return errors.Join(errs...)
}

func drawPartition(rng *rand.Rand, _ *options) *fault {
	target, where := appliance2(rng), network(rng)
	return &fault{
		What: "partition " + where + " of " + target, Length: length(rng),
		inject: func(_ context.Context, s *storm) error {
			return s.network(where).Partition([]*lab.Host{s.on(target).Host})
		},
		heal: func(_ context.Context, s *storm) error { return s.network(where).Heal() },
	}
}

func drawOneWay(rng *rand.Rand, _ *options) *fault {
	return faulty(rng, "oneway", []lab.Direction{pick(rng, lab.FromHost, lab.ToHost)}, lab.Faults{Loss: 1})
}

func drawLossy(rng *rand.Rand, _ *options) *fault {
	bad := lab.Faults{Loss: 0.2 * rng.Float64(), Duplicate: 0.1 * rng.Float64(), Reorder: 0.2 * rng.Float64(), ReorderBy: time.Duration(1+rng.IntN(20)) * time.Millisecond}
	return faulty(rng, "lossy", []lab.Direction{lab.FromHost, lab.ToHost}, bad)
}

// faulty makes the frames of one cable suffer.
func faulty(rng *rand.Rand, name string, ways []lab.Direction, bad lab.Faults) *fault {
	target, where := appliance2(rng), network(rng)
	what := fmt.Sprintf("%s %s of %s", name, where, target)
	if len(ways) == 1 {
		what += map[lab.Direction]string{lab.FromHost: ", what it sends", lab.ToHost: ", what it gets"}[ways[0]]
	}
	var port *lab.Port
	set := func(f lab.Faults) error {
		var errs []error
		for _, d := range ways {
			errs = append(errs, port.SetFaults(d, f))
		}
		return errors.Join(errs...)
	}
	return &fault{
		What: what, Length: length(rng),
		inject: func(_ context.Context, s *storm) error {
			port = s.port(target, where)
			return set(bad)
		},
		heal: func(context.Context, *storm) error { return set(lab.Faults{}) },
	}
}

// drawCut cuts what the two send to each other on the sync network, and nothing else.
func drawCut(rng *rand.Rand, _ *options) *fault {
	return &fault{
		What: "cut of the sync link", Length: length(rng),
		inject: func(_ context.Context, s *storm) error {
			a, b := s.pair.Sync.PortOf(s.pair.A), s.pair.Sync.PortOf(s.pair.B)
			return errors.Join(deaf(a, b), deaf(b, a))
		},
		heal: func(_ context.Context, s *storm) error {
			return errors.Join(s.pair.Sync.PortOf(s.pair.A).SetFilter(lab.ToHost, nil), s.pair.Sync.PortOf(s.pair.B).SetFilter(lab.ToHost, nil))
		},
	}
}

// deaf makes a host hear nothing of another one.
func deaf(host, other *lab.Port) error {
	text, err := other.MAC()
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(text)
	if err != nil {
		return fmt.Errorf("hardware address of %s: %w", other.Host().Name(), err)
	}
	return host.SetFilter(lab.ToHost, func(frame []byte) bool { return !bytes.Equal(frame[6:12], mac) })
}

func drawClock(rng *rand.Rand, o *options) *fault {
	target, by := anyNode(rng, o), length(rng)
	return &fault{
		What: "clock of " + target, heal: nothing,
		Length: by, // so that the time that has passed is as long as the step
		inject: func(_ context.Context, s *storm) error { return s.on(target).StepClock(by) },
	}
}

func drawDisk(rng *rand.Rand, o *options) *fault {
	target := anyNode(rng, o)
	var victim *pair.Node
	fill := func() string { return filepath.Join(victim.State, "fill") }
	return &fault{
		What: "disk of " + target, Length: length(rng),
		inject: func(_ context.Context, s *storm) error {
			victim = s.on(target)
			return victim.Host.OnDisk(func() error {
				err := os.WriteFile(fill(), make([]byte, 2*diskSize), 0o600)
				if errors.Is(err, unix.ENOSPC) {
					return nil
				}
				return fmt.Errorf("fill the disk: it is not full (%v)", err)
			})
		},
		heal: func(context.Context, *storm) error {
			return victim.Host.OnDisk(func() error { return os.Remove(fill()) })
		},
	}
}

// Roles are what lab.Main must know.
func Roles() lab.Roles {
	roles := bench.Roles()
	maps.Copy(roles, pair.Roles())
	roles[spinRole] = spin
	return roles
}

// spinRole is a process that does nothing, as fast as it can.
const spinRole = "storm-spin"

func spin(ctx context.Context, _ *lab.RoleIO) error {
	for ctx.Err() == nil {
	}
	return nil
}

func drawCPU(rng *rand.Rand, o *options) *fault {
	var procs []*lab.RoleProc
	return &fault{
		What: "cpu", Length: length(rng),
		inject: func(_ context.Context, s *storm) error {
			for range 2 * runtime.NumCPU() {
				p, err := s.stranger.Go(spinRole, json.RawMessage("{}"))
				if err != nil {
					return err
				}
				procs = append(procs, p)
			}
			return nil
		},
		heal: func(context.Context, *storm) error {
			for _, p := range procs {
				_ = p.Kill()
				<-p.Done()
			}
			return nil
		},
	}
}
