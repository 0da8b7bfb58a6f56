package pair

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab"
)

const (
	answerIn = 5 * time.Second // of a control socket on a busy machine; a dead one refuses at once
	askEvery = 20 * time.Millisecond
	diesIn   = time.Minute // a killed process, on a busy machine
	keysDir  = "keys"      // below Options.Dir
)

// Node is an appliance or the witness: a process on a host, and how to reach it.
type Node struct {
	Name   string
	Host   *lab.Host
	State  string          // directory
	Client *control.Client // nil: the witness has no control socket

	// Of a machine that is slower than a process: how often it is asked, how long an answer may take,
	// and by what everything that is waited for is stretched.
	Poll, AnswerIn time.Duration
	Slow           int
	// Heard is called with each answer; nil: nobody listens.
	Heard func(control.Status)

	config, socket, identity string // paths
	witnessed                bool
	speed                    float64
	command                  func() (lab.Command, error)

	mu    sync.Mutex
	proc  *lab.Proc
	role  *lab.RoleProc  // the same, of a node that is the calling program
	down  bool           // its process is meant to be away; otherwise its end is nobody's wish
	last  control.Status // the latest answer
	heard bool
}

// NewNode is an appliance that is run by a command of the caller's, with its control socket at a path.
func NewNode(host *lab.Host, socket string, command func() (lab.Command, error)) *Node {
	return &Node{Name: host.Name(), Host: host, Client: control.NewClient(socket), socket: socket, command: command,
		Poll: askEvery, AnswerIn: answerIn, Slow: 1, speed: 1}
}

// newNode is one that New was asked for.
func newNode(host *lab.Host, o Options) (*Node, error) {
	witness := host.Name() == WitnessName
	if o.Appliance != nil && !witness {
		return o.Appliance(host)
	}
	n := NewNode(host, filepath.Join(o.Dir, host.Name()+".sock"), nil)
	if witness {
		n.Client = nil
	}
	n.config = filepath.Join(o.ConfigDir, n.Name+".yaml")
	n.identity, n.State = filepath.Join(o.Dir, keysDir, n.Name), filepath.Join(o.Dir, "state-"+n.Name)
	if o.Speed != nil {
		n.speed = o.Speed(n.Name)
	}
	if o.Self != "" && n.speed == 1 {
		n.command = func() (lab.Command, error) {
			c := lab.Command{Name: "lockstep", Path: o.Self, Args: []string{"run", "-c", n.config}, Environ: Environment()}
			if witness {
				c.Name, c.Args[0] = "witness", "witness"
			}
			return c, nil
		}
	}
	if o.Disk == 0 {
		return n, nil
	}
	return n, host.Disk(n.State, o.Disk)
}

// Environment is this process's without the variables that would override the nodes' configuration.
func Environment() (env []string) {
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "LOCKSTEP_") {
			env = append(env, kv)
		}
	}
	return env
}

// Socket is the path of the appliance's control socket.
func (n *Node) Socket() string { return n.socket }

// Configure writes the node's file: what all have, with what is its own. It counts from the next
// start on.
func (n *Node) Configure(c *config.Config) error {
	text, err := n.file(c)
	if err == nil {
		err = os.WriteFile(n.config, text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write configuration of %q: %w", n.Name, err)
	}
	return nil
}

func (n *Node) file(all *config.Config) ([]byte, error) {
	if n.Client == nil {
		w := config.DefaultWitness()
		w.Listen, w.Identities, w.State, w.Log = witnessAddr(), []string{n.identity}, n.State, all.Log
		w.Heartbeat, w.FailureTimeout = all.Pair.Heartbeat, all.Pair.FailureTimeout
		return w.YAML()
	}
	c := *all
	c.Node, c.Pair.Identity, c.Pair.State, c.Control = n.Name, n.identity, n.State, n.socket
	if len(c.Authority.Members) > 0 { // the directory that has a directory of keys for each
		c.Authority.Identity = filepath.Join(c.Authority.Identity, n.Name)
	}
	if n.witnessed {
		c.Pair.Witness = witnessAddr()
	}
	return c.YAML()
}

// Start runs the node's process. A former one must be ending, as with any service manager: it is
// waited for.
func (n *Node) Start(ctx context.Context) error {
	if former := n.Process(); former != nil {
		select {
		case <-former.Done():
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(n.Slow) * diesIn):
			return fmt.Errorf("start node %q: its former process does not end", n.Name)
		}
	}
	p, r, err := n.launch()
	if err != nil {
		return fmt.Errorf("start node %q: %w", n.Name, err)
	}
	n.mu.Lock()
	n.proc, n.role, n.down = p, r, false
	n.mu.Unlock()
	return nil
}

func (n *Node) launch() (*lab.Proc, *lab.RoleProc, error) {
	if n.command == nil {
		r, err := n.Host.Go(nodeRole, nodeArgs{Config: n.config, Witness: n.Client == nil, Speed: n.speed})
		if err != nil {
			return nil, nil, err
		}
		return r.Proc, r, nil
	}
	c, err := n.command()
	if err != nil {
		return nil, nil, err
	}
	p, err := n.Host.Start(c)
	return p, nil, err
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
	if r == nil || n.speed == 1 {
		return fmt.Errorf("step the clock of node %q: it has none of its own", n.Name)
	}
	return r.Send(by)
}

// Kill ends the process as a loss of power does.
func (n *Node) Kill() error {
	n.ExpectEnd()
	return n.Process().Kill()
}

// Crashed tells whether the process has ended though nobody has ended it.
func (n *Node) Crashed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proc != nil && !n.down && !n.proc.Running()
}

// end lets the process end in order, and kills it when it does not.
func (n *Node) end() {
	n.ExpectEnd()
	if n.Client != nil {
		n.Client.Close()
	}
	if p := n.Process(); p != nil && p.Running() {
		_ = p.Terminate(endGrace)
	}
}

// Status asks the appliance, and remembers the answer.
func (n *Node) Status(ctx context.Context) (control.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, n.AnswerIn)
	defer cancel()
	s, err := n.Client.Status(ctx)
	if err != nil {
		return control.Status{}, fmt.Errorf("%s: %w", n.Name, err)
	}
	n.mu.Lock()
	n.last, n.heard = s, true
	n.mu.Unlock()
	if n.Heard != nil {
		n.Heard(s)
	}
	return s, nil
}

// Last is what the appliance has said last; ok is false when it never answered, or was forgotten.
func (n *Node) Last() (s control.Status, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.last, n.heard
}

// Forget what the appliance has said.
func (n *Node) Forget() {
	n.mu.Lock()
	n.last, n.heard = control.Status{}, false
	n.mu.Unlock()
}
