package demo

import (
	"context"
	"fmt"
	"os/exec"
	"sync"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/pair"
)

const (
	pairName    = "demo"
	servicePort = 80
	// How long things may take on a slow and busy machine.
	keysTimeout   = 30 * time.Second
	syncTimeout   = 30 * time.Second
	afterTimeout  = 10 * time.Second
	rejoinTimeout = 60 * time.Second // of a repaired appliance, until the pair is in sync
	// Of the servers' health checks. A server that does not answer two in turn is down, so the
	// time-out allows for a machine that is busy with the demo itself.
	healthEvery   = time.Second
	healthTimeout = time.Second
	// loggedSlack is what the log has room for besides an upload: its request, and rounding.
	loggedSlack = 1 << 20
)

// appliance is one member of the pair, and what the demo knows of it.
type appliance struct {
	*pair.Node
	machine *machine // that it runs in; nil: a process of this machine

	mu   sync.Mutex
	kept control.Kept // of the latest answer that had it
	dead bool         // killed or cut off by the demo: its answers no longer count
}

func newAppliance(n *pair.Node, m *machine) *appliance {
	a := &appliance{Node: n, machine: m}
	n.Heard = a.hear
	return a
}

// hear an answer.
func (a *appliance) hear(s control.Status) {
	if len(s.Services) > 0 && s.Services[0].Kept != nil {
		a.mu.Lock()
		a.kept = *s.Services[0].Kept
		a.mu.Unlock()
	}
}

// configuration of both appliances.
func (o options) configuration() *config.Config {
	var servers []string
	for i := range o.servers() {
		servers = append(servers, fmt.Sprintf("10.20.0.%d:%d", 11+i, o.port()))
		if o.service == "" { // not every real server listens on IPv6
			servers = append(servers, fmt.Sprintf("[fd20::%d]:%d", 11+i, o.port()))
		}
	}
	listen := []string{fmt.Sprintf("%s:%d", lab.VIP4, o.port())}
	if o.service == "" {
		listen = append(listen, fmt.Sprintf("[%s]:%d", lab.VIP6, o.port()))
	}
	svc := pair.Service("demo", listen, servers)
	svc.Protection = config.Protection(o.protects())
	o.keeping(&svc)
	services := []config.Service{svc}
	pair.SetPath(services, config.Path(o.path))
	c := pair.Config(pairName, services...)
	if o.ofServer() {
		// No appliance fails: on a machine that is too busy none shall be taken for dead and spoil the
		// story.
		c.Pair.Heartbeat, c.Pair.FailureTimeout = 50*time.Millisecond, time.Second
	}
	if o.keepLogs != "" {
		c.Log.Level = "debug" // who keeps logs wants to know
	}
	return c
}

// keeping is what a service says whose connections outlive their server. The health check asks the
// process itself, and not only its kernel: one that hangs must be found out. An upload that fits is
// in the log to its end: beyond it only a server that runs beside can go on.
func (o options) keeping(svc *config.Service) {
	if o.service != "" {
		o.serving(svc)
		return
	}
	if !o.kept() {
		return
	}
	svc.Patience = defaultPatience
	svc.Health = config.Health{Interval: healthEvery, Timeout: healthTimeout, HTTP: "/", Canary: true}
	if o.release != "" {
		svc.Release = config.Release(o.release)
	}
	if o.direction != dirDownload && o.size <= maxLogged {
		svc.Limits.Log = config.Size(o.size + loggedSlack)
	}
}

// makePair makes keys, configurations and nodes; nothing runs yet. Logs that are kept have the
// configurations beside them.
func (s *show) makePair(ctx context.Context, dir string) (err error) {
	o := pair.Options{Dir: dir, ConfigDir: s.opts.keepLogs, Self: s.opts.self}
	c, made := s.opts.configuration(), map[string]*machine{}
	if s.vms != nil {
		s.vms.timing(c)
		if err = s.vms.describe(ctx, s.opts.self, c, s.opts.witness); err != nil { // makes the keys, too
			return err
		}
		o.Appliance = func(host *lab.Host) (n *pair.Node, err error) {
			n, made[host.Name()], err = s.vms.node(host)
			return n, err
		}
	}
	if s.nodes, err = pair.New(s.pair, c, o); err != nil {
		return err
	}
	s.first, s.second = newAppliance(s.nodes.A, made["a"]), newAppliance(s.nodes.B, made["b"])
	return nil
}

// startPair starts all nodes, waits until they are in sync, and learns who is active.
func (s *show) startPair(ctx context.Context) error {
	err := s.nodes.Start(ctx)
	if s.nodes.Active == s.second.Node {
		s.first, s.second = s.second, s.first
	}
	return err
}

// handOver asks the appliance to, as an operator does. That the transfers end meanwhile does not
// break it off.
func (a *appliance) handOver(ctx context.Context, self string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterTimeout)
	defer cancel()
	return command(ctx, self, "switchover", "--control", a.Socket())
}

// command runs one of lockstep's.
func command(ctx context.Context, self, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, self, append([]string{name}, args...)...)
	cmd.Env = pair.Environment()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("lockstep %s: %w\n%s", name, err, pair.Indent(string(out)))
	}
	return nil
}

// active tells whether the latest answer was that of an active appliance that still counts.
func (a *appliance) active() bool {
	last, heard := a.Last()
	a.mu.Lock()
	defer a.mu.Unlock()
	return heard && !a.dead && last.Role == control.RoleActive
}

// lastKept is what it said of its connections' servers when it said something last.
func (a *appliance) lastKept() control.Kept {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.kept
}

// serversHealthy tells whether the latest answer says so of every server.
func (a *appliance) serversHealthy() bool {
	last, _ := a.Last()
	for _, svc := range last.Services {
		for _, b := range svc.Servers {
			if !b.Healthy {
				return false
			}
		}
	}
	return len(last.Services) > 0
}

func (a *appliance) setDead() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dead = true
}

// setAlive lets its answers count again, from the next one on.
func (a *appliance) setAlive() {
	a.Forget()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dead = false
}

// waitFor polls until cond holds for the answers of all given appliances, or one's process ends, or
// the time is up. What is what is being waited for.
func waitFor(ctx context.Context, limit time.Duration, what string, cond func([]control.Status) bool, members ...*appliance) ([]control.Status, error) {
	return pair.Await(ctx, limit, what, cond, nodes(members)...)
}

func nodes(members []*appliance) (all []*pair.Node) {
	for _, m := range members {
		all = append(all, m.Node)
	}
	return all
}

// watch keeps asking a member until ctx ends, so that the view knows who is active.
func (a *appliance) watch(ctx context.Context) {
	tick := time.NewTicker(a.Poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if a.Process().Running() {
				_, _ = a.Status(ctx) // no answer: the last one stands
			}
		}
	}
}
