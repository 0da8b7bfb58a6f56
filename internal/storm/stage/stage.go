// Package stage runs a pair and its witness inside the lab's standard topology as an operator
// would: `lockstep keys`, `lockstep run`, `lockstep witness`, the control socket. Only a node that is
// to have a clock of its own is a role of the calling program instead.
//
// It owns keys, configuration files, the nodes' processes and disks, and who is active. It must not
// know what happens to them, nor what runs through them.
package stage

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"lockstep/appliance/control"
	"lockstep/internal/lab"
)

// Options of a pair.
type Options struct {
	Self     string   // the program, of `lockstep run`
	Services string   // the list under services:, in YAML, indented by two
	Times    []string // lines of YAML that all nodes must agree on, such as failure_timeout; unindented
	Reach    bool     // the appliances ping the client and the first server
	Debug    bool     // log level
	// Speed of the next node's clock: 1 is right. nil: all are.
	Speed func() float64
}

// Pair is two appliances and, if the topology has a host for it, their witness.
type Pair struct {
	A, B, W *Node // W may be nil
	// Active and Standby as Look has seen them last; nil: the pair was not in sync.
	Active, Standby *Node
	Epoch           uint64 // the highest that Look has seen
}

const (
	pairName    = "storm"
	witnessPort = 7401
	keysTimeout = 30 * time.Second
	endGrace    = 5 * time.Second // from SIGTERM to SIGKILL
)

// New makes keys and configuration below dir. Nothing runs yet.
func New(ctx context.Context, p *lab.PairLab, dir string, o Options) (*Pair, error) {
	if err := makeKeys(ctx, o.Self, filepath.Join(dir, "keys")); err != nil {
		return nil, err
	}
	pair := &Pair{}
	for _, n := range []struct {
		host *lab.Host
		node **Node
	}{{p.A, &pair.A}, {p.B, &pair.B}, {p.W, &pair.W}} {
		if n.host == nil {
			continue
		}
		var err error
		if *n.node, err = newNode(n.host, dir, o, p.W != nil); err != nil {
			return nil, err
		}
	}
	return pair, nil
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

// Nodes are all of them.
func (p *Pair) Nodes() []*Node {
	if p.W == nil {
		return []*Node{p.A, p.B}
	}
	return []*Node{p.A, p.B, p.W}
}

// Start all nodes.
func (p *Pair) Start() error {
	for _, n := range p.Nodes() {
		if err := n.Start(); err != nil {
			return err
		}
	}
	return nil
}

// Other appliance.
func (p *Pair) Other(n *Node) *Node {
	if n == p.A {
		return p.B
	}
	return p.A
}

// Look asks both appliances and notes who is active. It says why the pair is not in sync; empty: it
// is, and has its witness.
func (p *Pair) Look(ctx context.Context) (why string) {
	p.Active, p.Standby = nil, nil
	a, b := p.A.Status(ctx), p.B.Status(ctx)
	p.Epoch = max(p.Epoch, a.Epoch, b.Epoch)
	why = fmt.Sprintf("a is %s; b is %s", describe(a), describe(b))
	active, standby := p.A, p.B
	if b.Role == control.RoleActive && a.Role != control.RoleActive {
		active, standby, a, b = p.B, p.A, b, a
	}
	if a.Role != control.RoleActive || b.Role != control.RoleStandby || !a.InSync || !b.InSync {
		return why
	}
	for _, st := range []control.Status{a, b} {
		if p.W != nil && (st.Quorum == nil || !st.Quorum.Witness) {
			return why + "; the witness is not connected"
		}
	}
	p.Active, p.Standby = active, standby
	return ""
}

func describe(st control.Status) string {
	if st.Role == "" {
		return "not answering"
	}
	return fmt.Sprintf("%s, epoch %d, in sync %v %s", st.Role, st.Epoch, st.InSync, st.WhyNotInSync)
}

// Leading is who seems to be active, however the pair stands: the one with the higher epoch of those
// that say so.
func (p *Pair) Leading(ctx context.Context) *Node {
	a, b := p.A.Status(ctx), p.B.Status(ctx)
	if b.Role == control.RoleActive && (a.Role != control.RoleActive || b.Epoch > a.Epoch) {
		return p.B
	}
	return p.A
}

// End lets all nodes end in order.
func (p *Pair) End() {
	for _, n := range p.Nodes() {
		n.ExpectEnd()
		if n.Client != nil {
			n.Client.Close()
		}
		if proc := n.Process(); proc != nil && proc.Running() {
			_ = proc.Terminate(endGrace)
		}
	}
}
