package storm

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lockstep/appliance/config"
	"lockstep/internal/pair"
)

// options of a storm.
type options struct {
	serviceOptions
	onlyFamily
	seed        uint64
	duration    time.Duration
	count       int // of faults; 0: as many as fit into duration
	faults      []string
	witness     bool
	quick       bool // faults in quick succession: the pair need not be in sync before one
	connections int
	bridge      bool // the kernel's bridges instead of the lab's switches
	reach       bool
	clocks      bool
	servers     bool          // servers die, too
	real        bool          // nginx and curl beside the checked load
	timeout     time.Duration // pair.failure_timeout; 0: the appliance's default
	stopAtFirst bool
	out         string // evidence goes below this directory
	debug       bool
	json        bool
	self        string // this program
}

const (
	maxConnections = 2000
	maxDuration    = 7 * 24 * time.Hour
)

// onlyFamily is the one that is left.
type onlyFamily struct{ only4, only6 bool }

// serviceOptions are the services': empty is the appliance's default.
type serviceOptions struct {
	path string // services[].path
	slow string // services[].slow_clients
}

// check says what cannot be asked for.
func (o *options) check() error {
	if o.only4 && o.only6 {
		return errors.New("--only-v4 and --only-v6 leave nothing")
	}
	if o.connections < 1 || o.connections > maxConnections {
		return fmt.Errorf("--connections %d is not within 1 to %d", o.connections, maxConnections)
	}
	if o.duration < time.Second || o.duration > maxDuration {
		return fmt.Errorf("--duration %v is not within 1s to %v", o.duration, maxDuration)
	}
	if o.count < 0 {
		return fmt.Errorf("--count %d is negative", o.count)
	}
	if o.timeout != 0 && (o.timeout < 20*time.Millisecond || o.timeout > time.Minute) {
		return fmt.Errorf("--failure-timeout %v is not within 20ms to 1m", o.timeout)
	}
	if !slices.Contains([]config.Path{"", config.PathAuto, config.PathNetstack}, config.Path(o.path)) {
		return fmt.Errorf("--path %s is neither auto nor netstack", o.path)
	}
	if !slices.Contains([]config.SlowClients{"", config.SlowWait, config.SlowBuffer}, config.SlowClients(o.slow)) {
		return fmt.Errorf("--slow-clients %s is neither wait nor buffer", o.slow)
	}
	if config.SlowClients(o.slow) == config.SlowBuffer && config.Path(o.path) != config.PathAuto {
		return errors.New("--slow-clients buffer is for connections that are passed on: it needs --path auto")
	}
	kinds, err := o.kinds()
	if err == nil && len(kinds) == 0 {
		err = errors.New("no fault is left")
	}
	return err
}

// kinds are the faults that can be drawn.
func (o *options) kinds() ([]kind, error) {
	var list []kind
	for _, k := range kinds() {
		switch {
		case len(o.faults) > 0 && !slices.Contains(o.faults, k.name):
			continue
		}
		if needs := o.lacks(k); needs != "" {
			if len(o.faults) > 0 {
				return nil, fmt.Errorf("fault %q needs %s", k.name, needs)
			}
			continue
		}
		list = append(list, k)
	}
	for _, name := range o.faults {
		if !slices.ContainsFunc(kinds(), func(k kind) bool { return k.name == name }) {
			return nil, fmt.Errorf("fault %q is unknown (there are %s)", name, kindNames())
		}
	}
	return list, nil
}

// lacks is what a kind of fault needs and is not there.
func (o *options) lacks(k kind) string {
	switch {
	case k.witness && !o.witness:
		return "--witness"
	case k.switched && o.bridge:
		return "the lab's own switches (no --bridge)"
	case k.clocks && !o.clocks:
		return "--clocks"
	case k.servers && !o.servers:
		return "--servers"
	}
	return ""
}

func kindNames() string {
	var names []string
	for _, k := range kinds() {
		names = append(names, k.name)
	}
	return strings.Join(names, ", ")
}

// repeat is the command line that plays the same faults again.
func (o *options) repeat() string {
	line := fmt.Sprintf("lockstep storm --seed %d --duration %v --connections %d", o.seed, o.duration, o.connections)
	if o.count > 0 {
		line += fmt.Sprintf(" --count %d", o.count)
	}
	if len(o.faults) > 0 {
		line += " --faults " + strings.Join(o.faults, ",")
	}
	if o.path != "" {
		line += " --path " + o.path
	}
	if o.slow != "" {
		line += " --slow-clients " + o.slow
	}
	if o.timeout != 0 {
		line += fmt.Sprintf(" --failure-timeout %v", o.timeout)
	}
	for _, f := range []struct {
		on   bool
		flag string
	}{{!o.witness, "--witness=false"}, {o.quick, "--quick"}, {o.only4, "--only-v4"}, {o.only6, "--only-v6"}, {o.bridge, "--bridge"},
		{!o.reach, "--reach=false"}, {!o.servers, "--servers=false"}, {!o.real, "--real=false"}, {o.clocks, "--clocks"}} {
		if f.on {
			line += " " + f.flag
		}
	}
	return line
}

// configuration of the appliances.
func (o *options) configuration() *config.Config {
	c := pair.Config("storm", o.services()...)
	if o.timeout != 0 {
		c.Pair.Heartbeat = cmp.Or(min(o.timeout/5, 50*time.Millisecond), time.Millisecond)
		c.Pair.FailureTimeout = o.timeout
	}
	if o.reach {
		pair.Reach(c, "10.20.0.11")
	}
	if o.debug {
		c.Log.Level = "debug"
	}
	return c
}
