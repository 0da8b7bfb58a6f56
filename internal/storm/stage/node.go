package stage

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"lockstep/appliance"
	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/appliance/witness"
	"lockstep/internal/clock"
	"lockstep/internal/lab"
)

const (
	answerIn = 5 * time.Second // of a control socket; one that is dead refuses at once
	diesIn   = time.Minute     // a killed process, on a busy machine
)

// DiskSize is the size of the file system that has a node's state, bytes.
const DiskSize = 4 << 20

// Node is an appliance or the witness: a process on a host, and how to reach it.
type Node struct {
	Name   string
	Host   *lab.Host
	State  string          // directory, on a file system of its own (lab.Host.OnDisk)
	Client *control.Client // nil: the witness has no control socket

	config string // file
	speed  float64
	self   string

	mu   sync.Mutex
	proc *lab.Proc
	role *lab.RoleProc // the same, of a node with a clock of its own; else nil
	down bool          // its process is meant to be away; otherwise its end is nobody's wish
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

// newNode writes the configuration; nothing runs yet.
func newNode(host *lab.Host, dir string, o Options, witnessed bool) (*Node, error) {
	n := &Node{Name: host.Name(), Host: host, speed: 1, self: o.Self,
		config: filepath.Join(dir, host.Name()+".yaml"), State: filepath.Join(dir, "state-"+host.Name())}
	if o.Speed != nil {
		n.speed = o.Speed()
	}
	if err := host.Disk(n.State, DiskSize); err != nil {
		return nil, err
	}
	identity, text := filepath.Join(dir, "keys", n.Name), ""
	if n.Name == "w" {
		text = fmt.Sprintf("listen: %s:%d\nidentities: [%q]\nstate: %q\n", lab.Witness4, witnessPort, identity, n.State)
		for _, line := range o.Times {
			text += line + "\n"
		}
	} else {
		socket := filepath.Join(dir, n.Name+".sock")
		text = n.configuration(identity, socket, o, witnessed)
		n.Client = control.NewClient(socket)
	}
	if err := os.WriteFile(n.config, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("write configuration of %q: %w", n.Name, err)
	}
	return n, nil
}

// configuration follows lockstep.example.yaml.
func (n *Node) configuration(identity, socket string, o Options, witnessed bool) string {
	third, level, reach := "none", "info", [2]string{}
	if witnessed {
		third = fmt.Sprintf("%s:%d", lab.Witness4, witnessPort)
	}
	if o.Debug {
		level = "debug"
	}
	if o.Reach {
		reach = [2]string{lab.Client4, "10.20.0.11"}
	}
	text := fmt.Sprintf("node: %s\npair:\n  name: %s\n  members: {a: \"10.30.0.1:7400\", b: \"10.30.0.2:7400\"}\n  witness: %s\n  identity: %q\n  state: %q\n",
		n.Name, pairName, third, identity, n.State)
	for _, line := range o.Times {
		text += "  " + line + "\n"
	}
	return text + fmt.Sprintf("networks:\n  front: {interface: %s, reach: [%s]}\n  back: {interface: %s, gateway: [\"%s/24\", \"%s/64\"], reach: [%s]}\nservices:\n%s"+
		"log: {level: %s}\ncontrol: %q\nmetrics: \"\"\n", lab.FrontIf, reach[0], lab.BackIf, lab.BackGateway4, lab.BackGateway6, reach[1], o.Services, level, socket)
}

// Start runs the node's process. Its former one has ended.
func (n *Node) Start() error {
	var p *lab.Proc
	var r *lab.RoleProc
	var err error
	if n.speed == 1 {
		args := []string{"run", "-c", n.config}
		if n.Client == nil {
			args[0] = "witness"
		}
		p, err = n.Host.Start(lab.Command{Name: "lockstep", Path: n.self, Args: args, Environ: environment()})
	} else {
		if r, err = n.Host.Go(nodeRole, nodeArgs{Config: n.config, Witness: n.Client == nil, Speed: n.speed}); err == nil {
			p = r.Proc
		}
	}
	if err != nil {
		return fmt.Errorf("start node %q: %w", n.Name, err)
	}
	n.mu.Lock()
	n.proc, n.role, n.down = p, r, false
	n.mu.Unlock()
	return nil
}

// Process is the newest one; nil before the first start.
func (n *Node) Process() *lab.Proc {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proc
}

// ExpectEnd tells that the process is about to be ended by the caller.
func (n *Node) ExpectEnd() {
	n.mu.Lock()
	n.down = true
	n.mu.Unlock()
}

// StepClock puts the node's clock forward, which must be one of its own (Options.Speed).
func (n *Node) StepClock(by time.Duration) error {
	n.mu.Lock()
	r := n.role
	n.mu.Unlock()
	if r == nil {
		return fmt.Errorf("step the clock of node %q: it has none of its own", n.Name)
	}
	return r.Send(by)
}

// Kill ends the process as a loss of power does.
func (n *Node) Kill() error {
	n.ExpectEnd()
	return n.Process().Kill()
}

// Restart starts a node whose process is ending.
func (n *Node) Restart(ctx context.Context) error {
	select {
	case <-n.Process().Done():
		return n.Start()
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(diesIn):
		return fmt.Errorf("the killed process of %s does not end", n.Name)
	}
}

// Crashed tells whether the process has ended though nobody has ended it.
func (n *Node) Crashed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proc != nil && !n.down && !n.proc.Running()
}

// Status asks the appliance; a zero Status if it does not answer.
func (n *Node) Status(ctx context.Context) control.Status {
	ctx, cancel := context.WithTimeout(ctx, answerIn)
	defer cancel()
	s, _ := n.Client.Status(ctx)
	return s
}

// nodeRole runs a node whose clock has a speed of its own.
const nodeRole = "stage-node"

type nodeArgs struct {
	Config  string  `json:"config"`
	Witness bool    `json:"witness"`
	Speed   float64 `json:"speed"`
}

// Roles are what lab.Main must know for nodes with clocks of their own.
func Roles() lab.Roles { return lab.Roles{nodeRole: playNode} }

func playNode(ctx context.Context, r *lab.RoleIO) error {
	var args nodeArgs
	if err := json.Unmarshal(r.Args, &args); err != nil {
		return fmt.Errorf("decode arguments: %w", err)
	}
	clk := clock.NewDrifting(args.Speed)
	var steps sync.WaitGroup
	defer steps.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	steps.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case m, ok := <-r.Messages:
				var by time.Duration
				if !ok || json.Unmarshal(m, &by) != nil {
					return // the storm is over
				}
				clk.Step(by)
			}
		}
	})
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
	var level slog.Level
	_ = level.UnmarshalText([]byte(cfg.Log.Level)) // validated
	return appliance.RunWithClock(ctx, cfg, clk, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
}
