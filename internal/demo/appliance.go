package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"lockstep/appliance/control"
	"lockstep/internal/lab"
)

const (
	pairName    = "demo"
	witnessName = "w"
	witnessPort = 7401
	servicePort = 80
	// How long things may take on a slow and busy machine.
	keysTimeout   = 30 * time.Second
	activeTimeout = 20 * time.Second
	syncTimeout   = 30 * time.Second
	afterTimeout  = 10 * time.Second
	rejoinTimeout = 60 * time.Second // of a repaired appliance, until the pair is in sync
	endGrace      = 5 * time.Second  // from SIGTERM to SIGKILL
	statusTimeout = 500 * time.Millisecond
	pollEvery     = 20 * time.Millisecond
	tailLines     = 20
	// Of the servers' health checks. A server that does not answer two in turn is down, so the
	// time-out allows for a machine that is busy with the demo itself.
	healthEvery   = time.Second
	healthTimeout = time.Second
	// loggedSlack is what the log has room for besides an upload: its request, and rounding.
	loggedSlack = 1 << 20
)

// appliance is one member of the pair: a process, and its control socket.
type appliance struct {
	name   string
	host   *lab.Host
	config string // file; empty: in a machine of its own
	// machine that the appliance runs in; nil: a process of this machine. slow stretches what is
	// waited for; poll is how often it is asked, and answerIn how long an answer may take.
	machine        *machine
	slow           int
	poll, answerIn time.Duration
	socket         string
	client         *control.Client

	mu   sync.Mutex
	proc *lab.Proc      // the newest; nil before the first start
	last control.Status // the latest answer
	kept control.Kept   // of the latest answer that had it
	seen bool
	dead bool // killed or cut off by the demo: its answers no longer count
}

// environment without the variables that would override the appliances' configuration.
func environment() (env []string) {
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "LOCKSTEP_") {
			env = append(env, kv)
		}
	}
	return env
}

// makeKeys lets `lockstep keys` write the pair's credentials below dir.
func makeKeys(ctx context.Context, self, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, keysTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, "keys", "--pair", pairName, "--members", "a,b", "--witness", witnessName, "--out", dir)
	cmd.Env = environment()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make the pair's keys: %w\n%s", err, indent(string(out)))
	}
	return nil
}

// newAppliance writes the configuration of a member; nothing runs yet.
func newAppliance(host *lab.Host, opts options, keys, dir, configDir string) (*appliance, error) {
	a := &appliance{
		name:   host.Name(),
		host:   host,
		config: filepath.Join(configDir, host.Name()+".yaml"),
		socket: filepath.Join(dir, host.Name()+".sock"),
		slow:   1, poll: pollEvery, answerIn: statusTimeout,
	}
	text := configuration(a.name, filepath.Join(keys, a.name), filepath.Join(dir, "state-"+a.name), a.socket, opts)
	if err := os.WriteFile(a.config, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("write configuration of %q: %w", a.name, err)
	}
	a.connect()
	return a, nil
}

// connect makes the client of its control socket.
func (a *appliance) connect() { a.client = control.NewClient(a.socket) }

// configuration follows lockstep.example.yaml.
func configuration(node, identity, state, socket string, opts options) string {
	third := "none"
	if opts.witness {
		third = fmt.Sprintf("%s:%d", lab.Witness4, witnessPort)
	}
	level := "info"
	if opts.keepLogs != "" {
		level = "debug" // who keeps logs wants to know
	}
	var list []string
	for i := range opts.servers() {
		list = append(list, fmt.Sprintf(`"10.20.0.%d:%d"`, 11+i, opts.port()))
		if opts.service == "" { // not every real server listens on IPv6
			list = append(list, fmt.Sprintf(`"[fd20::%d]:%d"`, 11+i, opts.port()))
		}
	}
	listen := fmt.Sprintf(`"%s:%d"`, lab.VIP4, opts.port())
	if opts.service == "" {
		listen += fmt.Sprintf(`, "[%s]:%d"`, lab.VIP6, opts.port())
	}
	return fmt.Sprintf(`node: %[1]s
pair:
  name: %[2]s
  members:
    a: 10.30.0.1:7400
    b: 10.30.0.2:7400
  witness: %[11]s
  identity: %[3]q
  state: %[12]q
%[16]snetworks:
  front:
    interface: %[4]s
  back:
    interface: %[5]s
    gateway: ["%[6]s/24", "%[7]s/64"]
services:
  - name: demo
    listen: [%[8]s]
    servers: [%[9]s]
    protection: %[13]s
    source: client
%[14]slog: {level: %[15]s}
control: %[10]q
metrics: ""
`, node, pairName, identity, lab.FrontIf, lab.BackIf, lab.BackGateway4, lab.BackGateway6,
		listen, strings.Join(list, ", "), socket, third, state, opts.protects(), keeping(opts), level, indent2(opts.timing()))
}

// timing is what the voters must agree on. Where a server fails, no appliance does: on a machine
// that is too busy none shall be taken for dead and spoil the story.
func (o options) timing() []string {
	if !o.ofServer() {
		return nil
	}
	return []string{"heartbeat: 50ms\n", "failure_timeout: 1s\n"}
}

// indent2 moves lines below a key.
func indent2(lines []string) (text string) {
	for _, l := range lines {
		text += "  " + l
	}
	return text
}

// keeping is what a service says whose connections outlive their server. The health check asks the
// process itself, and not only its kernel: one that hangs must be found out. An upload that fits is
// in the log to its end: beyond it only a server that runs beside can go on.
func keeping(opts options) string {
	if opts.service != "" {
		return opts.serviceLines()
	}
	if !opts.kept() {
		return ""
	}
	text := fmt.Sprintf("    patience: %v\n    health: {interval: %v, timeout: %v, http: /}\n", defaultPatience, healthEvery, healthTimeout)
	if opts.release != "" {
		text += fmt.Sprintf("    release: %s\n", opts.release)
	}
	if opts.direction != dirDownload && opts.size <= maxLogged {
		text += fmt.Sprintf("    limits: {log: %dKiB}\n", opts.size>>10+loggedSlack>>10)
	}
	return text
}

// startWitness runs `lockstep witness` for the pair. The lab ends it.
func startWitness(host *lab.Host, opts options, keys, dir, configDir, timing string) error {
	text := fmt.Sprintf("listen: %s:%d\nidentities: [%q]\nstate: %q\n%s", lab.Witness4, witnessPort,
		filepath.Join(keys, witnessName), filepath.Join(dir, "state-"+witnessName), timing)
	path := filepath.Join(configDir, witnessName+".yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write configuration of the witness: %w", err)
	}
	_, err := host.Start(lab.Command{Name: "witness", Path: opts.self, Args: []string{"witness", "-c", path}, Environ: environment()})
	if err != nil {
		return fmt.Errorf("start the witness: %w", err)
	}
	return nil
}

// start runs `lockstep run`, or the machine that does.
func (a *appliance) start(self string) error {
	command := lab.Command{Name: "lockstep", Path: self, Args: []string{"run", "-c", a.config}, Environ: environment()}
	if a.machine != nil {
		var err error
		if command, err = a.machine.command(); err != nil {
			return fmt.Errorf("start appliance %q: %w", a.name, err)
		}
	}
	p, err := a.host.Start(command)
	if err != nil {
		return fmt.Errorf("start appliance %q: %w", a.name, err)
	}
	a.mu.Lock()
	a.proc = p
	a.mu.Unlock()
	return nil
}

// handOver asks the appliance to, as an operator does. That the transfers end meanwhile does not
// break it off.
func (a *appliance) handOver(ctx context.Context, self string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterTimeout)
	defer cancel()
	found := []string{"-c", a.config}
	if a.machine != nil {
		found = []string{"--control", a.socket}
	}
	cmd := exec.CommandContext(ctx, self, append([]string{"switchover"}, found...)...)
	cmd.Env = environment()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("lockstep switchover: %w\n%s", err, indent(string(out)))
	}
	return nil
}

// process is the newest one of the appliance.
func (a *appliance) process() *lab.Proc {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.proc
}

// status asks the process and remembers the answer.
func (a *appliance) status(ctx context.Context) (control.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, a.answerIn)
	defer cancel()
	s, err := a.client.Status(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		a.last, a.seen = s, true
		if len(s.Services) > 0 && s.Services[0].Kept != nil {
			a.kept = *s.Services[0].Kept
		}
	}
	return s, err
}

// active tells whether the latest answer was that of an active appliance that still counts.
func (a *appliance) active() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen && !a.dead && a.last.Role == control.RoleActive
}

// lastKept is what it said of its connections' servers when it said something last.
func (a *appliance) lastKept() control.Kept {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.kept
}

// serversHealthy tells whether the latest answer says so of every server.
func (a *appliance) serversHealthy() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, svc := range a.last.Services {
		for _, b := range svc.Servers {
			if !b.Healthy {
				return false
			}
		}
	}
	return len(a.last.Services) > 0
}

func (a *appliance) setDead() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dead = true
}

// setAlive lets its answers count again, from the next one on.
func (a *appliance) setAlive() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dead, a.seen = false, false
}

// waitFor polls until cond holds for the answers of all given appliances, or one's process ends, or
// the time is up. What is what is being waited for.
func waitFor(ctx context.Context, limit time.Duration, what string, cond func([]control.Status) bool, members ...*appliance) ([]control.Status, error) {
	limit *= time.Duration(members[0].slow)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(members[0].poll)
	defer tick.Stop()
	for {
		var answers []control.Status
		var errs []error
		for _, m := range members {
			s, err := m.status(ctx)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", m.name, err))
				continue
			}
			answers = append(answers, s)
		}
		if len(errs) == 0 && cond(answers) {
			return answers, nil
		}
		for _, m := range members {
			if p := m.process(); !p.Running() {
				return nil, fmt.Errorf("appliance %q ended (%v) while waiting until %s; the end of its log:\n%s", m.name, orStatus0(p.Err()), what, indent(p.Tail(tailLines)))
			}
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("not within %v: %s%s", limit, what, situation(members)), errors.Join(errs...))
		case <-tick.C:
		}
	}
}

func orStatus0(err error) any {
	if err == nil {
		return "exit status 0"
	}
	return err
}

// situation is what the members last said, with the ends of their logs.
func situation(members []*appliance) string {
	var b strings.Builder
	for _, m := range members {
		m.mu.Lock()
		if m.seen {
			fmt.Fprintf(&b, "\n  %s says: role %s, peer connected %v %s, in sync %v %s", m.name, m.last.Role,
				m.last.Peer.Connected, m.last.Peer.Why, m.last.InSync, m.last.WhyNotInSync)
		} else {
			fmt.Fprintf(&b, "\n  %s has not answered on its control socket", m.name)
		}
		m.mu.Unlock()
		fmt.Fprintf(&b, "; the end of its log:\n%s", indent(m.proc.Tail(tailLines)))
	}
	return b.String()
}

func indent(s string) string {
	s = strings.TrimRight(s, "\n")
	if s == "" {
		return "    (nothing)"
	}
	return "    " + strings.ReplaceAll(s, "\n", "\n    ")
}

// watch keeps asking a member until ctx ends, so that the view knows who is active.
func (a *appliance) watch(ctx context.Context) {
	tick := time.NewTicker(a.poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if a.process().Running() {
				_, _ = a.status(ctx) // no answer: the last one stands
			}
		}
	}
}
