package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"lockstep/appliance/config"
	"lockstep/internal/lab"
	"lockstep/internal/pair"
	"lockstep/internal/vm"
)

// Faults of virtual machines, beside power-off, switchover and none.
const (
	faultReset    = "reset"    // the reset button
	faultShutdown = "shutdown" // the power button: it hands over, then switches itself off
	// faultTurns is power-off, reset and shutdown, one a round.
	faultTurns = "turns"
)

// vmFaults in the order of the help.
var vmFaults = []string{faultTurns, faultPowerOff, faultReset, faultShutdown, faultSwitchover, faultNone}

// turns are what faultTurns means, by round.
var turns = []string{faultPowerOff, faultReset, faultShutdown}

// Timing of a pair whose machines are emulated: an emulated machine may be busy for longer than the
// defaults allow a live one to be silent.
const (
	slowHeartbeat = 400 * time.Millisecond
	slowTimeout   = 4 * time.Second
	// slowFactor stretches everything that is waited for.
	slowFactor = 6
)

// With machines the transfers are paced: they last longer than it takes a machine to start again,
// whatever the speed, and an emulated pair carries them as well.
const (
	vmIdle = 20
	// vmPatience is for connections through machines that may get a fraction of a processor.
	vmPatience = 2 * time.Minute
	// vmPoll: an answer costs an emulated machine as much as a hundred segments do.
	vmPoll = 500 * time.Millisecond
	// vmAnswer: a client that gives up early finds a late answer in the next one's place.
	vmAnswer = 8 * time.Second

	slowSize  = 32 << 20 // bytes per direction, three and a half minutes
	slowChunk = 16 << 10
	slowPace  = 100 * time.Millisecond

	fastSize  = 2 << 30 // bytes per direction, a minute and a half
	fastChunk = 256 << 10
	fastPace  = 10 * time.Millisecond
)

// pace of the transfers, and their size where none was given.
func (m *machines) pace(opts *options) {
	size := int64(fastSize)
	opts.chunk, opts.pace, opts.patience = fastChunk, fastPace, vmPatience
	if m.accel.Slow() {
		size, opts.chunk, opts.pace = slowSize, slowChunk, slowPace
	}
	if opts.size == 0 {
		opts.size = size
	}
}

// machines are what the demo's appliances run in, with --vm.
type machines struct {
	image vm.Image
	accel vm.Accel
	dir   string // of the pair's description and volumes
}

// machine is one appliance's.
type machine struct{ vm.Config }

// command starts it.
func (m *machine) command() (lab.Command, error) {
	if err := m.Prepare(); err != nil {
		return lab.Command{}, err
	}
	program, args, err := m.Command()
	return lab.Command{Name: "qemu", Path: program, Args: args, Environ: pair.Environment()}, err
}

// newMachines checks that machines can be run at all, and how.
func newMachines(ctx context.Context, opts options, dir string, v *view) (*machines, error) {
	image, err := filepath.Abs(opts.vm)
	if err != nil {
		return nil, fmt.Errorf("--vm: %w", err)
	}
	m := &machines{image: vm.Image{Dir: image}, dir: dir}
	if err := m.image.Check(); err != nil {
		return nil, fmt.Errorf("--vm: %w", err)
	}
	m.accel = vm.Probe(ctx, m.image)
	v.say("the appliances are virtual machines, run by %v", m.accel)
	if m.accel.Slow() {
		v.say("emulated machines are slow: failure_timeout is %v, and the speed tells nothing", slowTimeout)
	}
	return m, nil
}

// describe writes the pair's description and lets `lockstep image config` make the volumes.
func (m *machines) describe(ctx context.Context, self string, c *config.Config, witness bool) error {
	path := filepath.Join(m.dir, "pair.yaml")
	text, err := pair.Description(c, witness)
	if err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write the pair's description: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, keysTimeout)
	defer cancel()
	return command(ctx, self, "image", "config", "-c", path, "--out", m.dir)
}

// timing is changed for emulated machines.
func (m *machines) timing(c *config.Config) {
	if m.accel.Slow() {
		c.Pair.Heartbeat, c.Pair.FailureTimeout = slowHeartbeat, slowTimeout
	}
}

// node makes the machine of a member; nothing runs yet.
func (m *machines) node(host *lab.Host) (*pair.Node, *machine, error) {
	dir := filepath.Join(m.dir, "machine-"+host.Name())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("machine of %q: %w", host.Name(), err)
	}
	cfg := vm.Config{Image: m.image, Dir: dir, Accel: m.accel, Volumes: []string{filepath.Join(m.dir, host.Name()+".iso")}}
	for network, ifname := range []string{lab.FrontIf, lab.BackIf, lab.SyncIf} {
		tap, err := host.Tap(ifname)
		if err != nil {
			return nil, nil, err
		}
		cfg.NICs = append(cfg.NICs, vm.NIC{Tap: tap, MAC: pair.MAC(network, int(host.Name()[0]-'a'))})
	}
	own := &machine{cfg}
	n := pair.NewNode(host, cfg.Control(), own.command)
	n.Poll, n.AnswerIn = vmPoll, vmAnswer
	if m.accel.Slow() {
		n.Slow = slowFactor
	}
	return n, own, nil
}

// vmDefaults are those that differ with machines, of flags that were not given.
func (o *options) vmDefaults(given func(flag string) bool) {
	if !given("fault") {
		o.fault = faultTurns
	}
	if !given("rounds") && o.fault == faultTurns {
		o.rounds = len(turns)
	}
	if !given("size") {
		o.size = 0 // as it suits the machines
	}
	if !given("connections") {
		o.idle = vmIdle
	}
}

// checkVM says why a fault cannot be had with machines.
func (o options) checkVM() error {
	if !slices.Contains(vmFaults, o.fault) {
		return fmt.Errorf("--fault: %q is none of %s, with --vm", o.fault, strings.Join(vmFaults, ", "))
	}
	return nil
}

// turn is the fault of a round.
func (o options) turn(round int) string {
	if o.fault == faultTurns {
		return turns[(round-1)%len(turns)]
	}
	return o.fault
}

// inject does to a machine what its round demands. It reports whether it was the machine's business.
func (m *machine) inject(ctx context.Context, fault string, victim *appliance) (done bool, err error) {
	switch fault {
	case faultPowerOff:
		return true, victim.Process().Kill()
	case faultReset:
		return true, m.Reset(ctx)
	case faultShutdown:
		return true, m.PowerButton(ctx)
	}
	return false, nil
}

// repair starts a machine that is off again; one that was reset starts by itself.
func (m *machine) repair(ctx context.Context, fault string, victim *appliance) (done bool, err error) {
	switch fault {
	case faultReset:
		return true, nil
	case faultPowerOff, faultShutdown:
		return true, victim.Start(ctx)
	}
	return false, nil
}

// describe a fault of a machine, once it is done; empty: it is none of a machine's own.
func (m *machine) describe(fault string, victim *appliance) string {
	switch fault {
	case faultPowerOff:
		return fmt.Sprintf("kill -9 %d: the machine of appliance %s loses its power", victim.Process().PID(), victim.Name)
	case faultReset:
		return fmt.Sprintf("the machine of appliance %s is reset", victim.Name)
	case faultShutdown:
		return fmt.Sprintf("somebody has pressed the power button of appliance %s's machine", victim.Name)
	}
	return ""
}

// mended tells what becomes of it.
func mended(fault string, victim *appliance) string {
	switch fault {
	case faultReset:
		return fmt.Sprintf("the machine of appliance %s starts again", victim.Name)
	default:
		return fmt.Sprintf("the machine of appliance %s is switched on again", victim.Name)
	}
}
