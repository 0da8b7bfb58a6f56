package storm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/internal/bench"
	"lockstep/internal/lab"
	"lockstep/internal/storm/stage"
)

func drawKill(rng *rand.Rand, o *options) *fault {
	target := anyNode(rng, o)
	var victim *stage.Node
	return &fault{
		What: "kill " + target, Length: length(rng),
		inject: func(_ context.Context, s *storm) error {
			victim = s.on(target)
			return victim.Kill()
		},
		heal: func(ctx context.Context, s *storm) error { return victim.Restart(ctx) },
	}
}

func drawFreeze(rng *rand.Rand, o *options) *fault {
	target := anyNode(rng, o)
	var victim *stage.Node
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
	var others []*stage.Node
	signal := func(send func(*lab.Proc) error) (err error) {
		for _, n := range others {
			err = errors.Join(err, send(n.Process()))
		}
		return err
	}
	return &fault{
		What: "mute: freeze witness and standby", Length: length(rng),
		inject: func(_ context.Context, s *storm) error {
			others = []*stage.Node{s.on(onWitness), s.on(onStandby)}
			return signal((*lab.Proc).Stop)
		},
		heal: func(context.Context, *storm) error { return signal((*lab.Proc).Cont) },
	}
}

func drawPower(rng *rand.Rand, o *options) *fault {
	target := appliance2(rng)
	var victim *stage.Node
	return &fault{
		What: "power " + target, Length: length(rng),
		inject: func(_ context.Context, s *storm) error {
			victim = s.on(target)
			return errors.Join(s.plug(victim, false), victim.Kill())
		},
		heal: func(ctx context.Context, s *storm) error {
			return errors.Join(s.plug(victim, true), victim.Restart(ctx))
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

func drawCable(rng *rand.Rand, o *options) *fault {
	target, net := appliance2(rng), network(rng)
	var port *lab.Port
	return &fault{
		What: "cable " + net + " of " + target, Length: length(rng), stated: statedOn(o, net),
		inject: func(_ context.Context, s *storm) error {
			port = s.port(target, net)
			return port.SetLink(false)
		},
		heal: func(context.Context, *storm) error { return port.SetLink(true) },
	}
}

func drawIsolate(rng *rand.Rand, o *options) *fault {
	target := appliance2(rng)
	var victim *stage.Node
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
func (s *storm) plug(n *stage.Node, in bool) error {
	var errs []error
	for _, net := range []*lab.Network{s.pair.Front, s.pair.Back, s.pair.Sync} {
		errs = append(errs, net.PortOf(n.Host).SetLink(in))
	}
	return errors.Join(errs...)
}

func drawPartition(rng *rand.Rand, o *options) *fault {
	target, net := appliance2(rng), network(rng)
	return &fault{
		What: "partition " + net + " of " + target, Length: length(rng), stated: statedOn(o, net),
		inject: func(_ context.Context, s *storm) error {
			return s.network(net).Partition([]*lab.Host{s.on(target).Host})
		},
		heal: func(_ context.Context, s *storm) error { return s.network(net).Heal() },
	}
}

func drawOneWay(rng *rand.Rand, o *options) *fault {
	return faulty(rng, o, "oneway", []lab.Direction{pick(rng, lab.FromHost, lab.ToHost)}, lab.Faults{Loss: 1})
}

func drawLossy(rng *rand.Rand, o *options) *fault {
	bad := lab.Faults{Loss: 0.2 * rng.Float64(), Duplicate: 0.1 * rng.Float64(), Reorder: 0.2 * rng.Float64(), ReorderBy: time.Duration(1+rng.IntN(20)) * time.Millisecond}
	return faulty(rng, o, "lossy", []lab.Direction{lab.FromHost, lab.ToHost}, bad)
}

// faulty makes the frames of one cable suffer.
func faulty(rng *rand.Rand, o *options, name string, ways []lab.Direction, bad lab.Faults) *fault {
	target, net := appliance2(rng), network(rng)
	what := fmt.Sprintf("%s %s of %s", name, net, target)
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
		What: what, Length: length(rng), stated: statedOn(o, net),
		inject: func(_ context.Context, s *storm) error {
			port = s.port(target, net)
			return set(bad)
		},
		heal: func(context.Context, *storm) error { return set(lab.Faults{}) },
	}
}

func drawDisk(rng *rand.Rand, o *options) *fault {
	target := anyNode(rng, o)
	var victim *stage.Node
	fill := func() string { return filepath.Join(victim.State, "fill") }
	return &fault{
		What: "disk of " + target, Length: length(rng),
		inject: func(_ context.Context, s *storm) error {
			victim = s.on(target)
			return victim.Host.OnDisk(func() error {
				err := os.WriteFile(fill(), make([]byte, 2*stage.DiskSize), 0o600)
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
	maps.Copy(roles, stage.Roles())
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
