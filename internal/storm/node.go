package storm

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"lockstep/appliance"
	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/appliance/witness"
	"lockstep/internal/bench"
	"lockstep/internal/clock"
	"lockstep/internal/lab"
)

const (
	pairName    = "storm"
	witnessPort = 7401
	keysTimeout = 30 * time.Second
	answerIn    = 5 * time.Second // of a control socket; one that is dead refuses at once
	endGrace    = 5 * time.Second // from SIGTERM to SIGKILL
	stateDisk   = 4 << 20         // bytes, the file system of a node's state
)

// node is an appliance or the witness: a process on a host, and how to reach it.
type node struct {
	name   string
	host   *lab.Host
	config string // file
	state  string // directory, on a file system of its own
	speed  float64
	client *control.Client // nil: the witness has no control socket
	self   string

	mu   sync.Mutex
	proc *lab.Proc
	// down: its process is meant to be away, or may not answer. Otherwise its end is a finding.
	down bool
}

// environment without the variables that would override the nodes' configuration.
func environment() (env []string) {
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "LOCKSTEP_") {
			env = append(env, kv)
		}
	}
	return env
}

// makeKeys lets `lockstep keys` write the credentials of all nodes below dir.
func makeKeys(ctx context.Context, self, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, keysTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, "keys", "--pair", pairName, "--members", "a,b", "--witness", "w", "--out", dir)
	cmd.Env = environment()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make the pair's keys: %w\n%s", err, out)
	}
	return nil
}

// newNode writes the configuration; nothing runs yet.
func newNode(host *lab.Host, dir string, opts options, speed float64) (*node, error) {
	n := &node{name: host.Name(), host: host, speed: speed, self: opts.self,
		config: filepath.Join(dir, host.Name()+".yaml"), state: filepath.Join(dir, "state-"+host.Name())}
	if err := host.Disk(n.state, stateDisk); err != nil {
		return nil, err
	}
	text := ""
	if n.name == "w" {
		text = fmt.Sprintf("listen: %s:%d\nidentities: [%q]\nstate: %q\n%s", lab.Witness4, witnessPort,
			filepath.Join(dir, "keys", n.name), n.state, strings.Join(opts.pairTimes(), ""))
	} else {
		socket := filepath.Join(dir, n.name+".sock")
		text = configuration(n.name, filepath.Join(dir, "keys", n.name), n.state, socket, opts)
		n.client = control.NewClient(socket)
	}
	if err := os.WriteFile(n.config, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("write configuration of %q: %w", n.name, err)
	}
	return n, nil
}

// The two services: servers see the clients' addresses, or the gateway's.
const (
	clientPort  = 80
	gatewayPort = 81
)

// configuration follows lockstep.example.yaml.
func configuration(name, identity, state, socket string, opts options) string {
	third, level, reach := "none", "info", [2]string{}
	if opts.witness {
		third = fmt.Sprintf("%s:%d", lab.Witness4, witnessPort)
	}
	if opts.debug {
		level = "debug"
	}
	if opts.reach {
		reach = [2]string{lab.Client4, "10.20.0.11"}
	}
	text := fmt.Sprintf("node: %s\npair:\n  name: %s\n  members: {a: \"10.30.0.1:7400\", b: \"10.30.0.2:7400\"}\n  witness: %s\n  identity: %q\n  state: %q\n",
		name, pairName, third, identity, state)
	for _, line := range opts.pairTimes() {
		text += "  " + line
	}
	text += fmt.Sprintf("networks:\n  front: {interface: %s, reach: [%s]}\n  back: {interface: %s, gateway: [\"%s/24\", \"%s/64\"], reach: [%s]}\nservices:\n",
		lab.FrontIf, reach[0], lab.BackIf, lab.BackGateway4, lab.BackGateway6, reach[1])
	for _, s := range []struct {
		source string
		port   int
	}{{"client", clientPort}, {"gateway", gatewayPort}} {
		text += fmt.Sprintf("  - name: by-%s\n    listen: [\"%s:%d\", \"[%s]:%d\"]\n    servers: [\"10.20.0.11:%d\", \"[fd20::11]:%d\"]\n    source: %s\n",
			s.source, lab.VIP4, s.port, lab.VIP6, s.port, s.port, s.port, s.source)
	}
	if opts.real {
		text += fmt.Sprintf("  - name: web\n    listen: [\"%s:%d\"]\n    servers: [\"10.20.0.12:%d\"]\n", lab.VIP4, webPort, serverPort)
	}
	return text + fmt.Sprintf("log: {level: %s}\ncontrol: %q\nmetrics: \"\"\n", level, socket)
}

// start runs the node's process. Its former one has ended.
func (n *node) start() error {
	var p *lab.Proc
	var err error
	if n.speed == 1 {
		args := []string{"run", "-c", n.config}
		if n.client == nil {
			args[0] = "witness"
		}
		p, err = n.host.Start(lab.Command{Name: "lockstep", Path: n.self, Args: args, Environ: environment()})
	} else {
		var r *lab.RoleProc
		if r, err = n.host.Go(nodeRole, nodeArgs{Config: n.config, Witness: n.client == nil, Speed: n.speed}); err == nil {
			p = r.Proc
		}
	}
	if err != nil {
		return fmt.Errorf("start node %q: %w", n.name, err)
	}
	n.mu.Lock()
	n.proc, n.down = p, false
	n.mu.Unlock()
	return nil
}

// process is the newest one.
func (n *node) process() *lab.Proc {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proc
}

// expectEnd tells that the process is about to be ended by us.
func (n *node) expectEnd() {
	n.mu.Lock()
	n.down = true
	n.mu.Unlock()
}

// crashed tells whether the process has ended though nobody has ended it.
func (n *node) crashed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.down && !n.proc.Running()
}

// status asks the appliance; a zero Status if it does not answer.
func (n *node) status(ctx context.Context) control.Status {
	ctx, cancel := context.WithTimeout(ctx, answerIn)
	defer cancel()
	s, _ := n.client.Status(ctx)
	return s
}

// nodeRole runs a node whose clock has a speed of its own.
const nodeRole = "storm-node"

type nodeArgs struct {
	Config  string  `json:"config"`
	Witness bool    `json:"witness"`
	Speed   float64 `json:"speed"`
}

// Roles are what lab.Main must know.
func Roles() lab.Roles {
	roles := bench.Roles()
	roles[nodeRole] = playNode
	roles[spinRole] = spin
	return roles
}

func playNode(ctx context.Context, r *lab.RoleIO) error {
	var args nodeArgs
	if err := json.Unmarshal(r.Args, &args); err != nil {
		return fmt.Errorf("decode arguments: %w", err)
	}
	var level slog.Level
	clk := clock.NewDrifting(args.Speed)
	if args.Witness {
		cfg, err := config.LoadWitness(args.Config)
		if err != nil {
			return err
		}
		return witness.RunWithClock(ctx, cfg, clk, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	}
	cfg, err := config.Load(args.Config)
	if err != nil {
		return err
	}
	_ = level.UnmarshalText([]byte(cfg.Log.Level)) // validated
	return appliance.RunWithClock(ctx, cfg, clk, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
}
