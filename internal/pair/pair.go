package pair

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/replication/identity"
)

// Options of New; what the appliances do is in their configuration.
type Options struct {
	Dir       string // below it: keys, states, control sockets
	ConfigDir string // of the configuration files; empty: Dir
	// Self is the program of `lockstep run` and `lockstep witness`. Empty: the nodes are this very
	// program, which has given Roles to lab.Main.
	Self string
	// Speed of a node's clock, by the node's name; 1 is right. nil: all are. A node with a clock of
	// its own is this very program in any case.
	Speed func(node string) float64
	// Disk is the size of the file system of its own that each node's state is on, bytes; 0: a directory.
	Disk int64
	// Appliance makes one that is no process of ours, such as a machine, and whose configuration and
	// keys, and those of the witness below Dir, are made already. nil: all that is New's business.
	Appliance func(host *lab.Host) (*Node, error)
}

// Pair is two appliances and, if the topology has a host for it, their witness.
type Pair struct {
	A, B, W *Node // W is nil without a witness, B where a is alone
	// Active and Standby as Look or AwaitInSync have seen them last; nil: the pair was not in sync.
	Active, Standby *Node
	Epoch           uint64 // the highest that was seen
}

// WitnessName is the witness's, WitnessPort where it listens.
const (
	WitnessName = "w"
	WitnessPort = 7401
)

const (
	// AloneWithin and SyncWithin are how long things may take on a slow and busy machine: until the
	// first appliance is active, and until the pair is in sync.
	AloneWithin = 30 * time.Second
	SyncWithin  = time.Minute

	endGrace = 5 * time.Second // from SIGTERM to SIGKILL
)

// New makes keys and configuration files. Nothing runs yet.
func New(l *lab.PairLab, c *config.Config, o Options) (*Pair, error) {
	if o.ConfigDir == "" {
		o.ConfigDir = o.Dir
	}
	if o.Appliance == nil && len(c.Pair.Members) > 1 {
		if _, err := identity.Write(filepath.Join(o.Dir, keysDir), c.Pair.Name, []string{"a", "b", WitnessName}, false); err != nil {
			return nil, fmt.Errorf("make the pair's keys: %w", err)
		}
	}
	p := &Pair{}
	for _, n := range []struct {
		host *lab.Host
		node **Node
	}{{l.A, &p.A}, {l.B, &p.B}, {l.W, &p.W}} {
		if n.host == nil || n.host == l.B && len(c.Pair.Members) < 2 {
			continue
		}
		var err error
		if *n.node, err = newNode(n.host, o); err != nil {
			return nil, err
		}
		(*n.node).witnessed = l.W != nil
		if (*n.node).config == "" {
			continue
		}
		if err = (*n.node).Configure(c); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Appliances are those of the pair: one or two.
func (p *Pair) Appliances() []*Node {
	if p.B == nil {
		return []*Node{p.A}
	}
	return []*Node{p.A, p.B}
}

// Nodes are the appliances and the witness.
func (p *Pair) Nodes() []*Node {
	if p.W == nil {
		return p.Appliances()
	}
	return append(p.Appliances(), p.W)
}

// Node by name; nil: there is none.
func (p *Pair) Node(name string) *Node {
	for _, n := range p.Nodes() {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Start all nodes, and wait until the pair is in sync. Without a witness a is active then; with one
// the voters decide. A witness that runs already goes on.
func (p *Pair) Start(ctx context.Context) error {
	if p.W != nil && (p.W.Process() == nil || !p.W.Process().Running()) {
		if err := p.W.Start(ctx); err != nil {
			return err
		}
	}
	if err := p.A.Start(ctx); err != nil {
		return err
	}
	if p.W == nil {
		active := func(said []control.Status) bool { return said[0].Role == control.RoleActive }
		if _, err := Await(ctx, AloneWithin, "appliance a is active", active, p.A); err != nil || p.B == nil {
			return err
		}
	}
	if err := p.B.Start(ctx); err != nil {
		return err
	}
	return p.AwaitInSync(ctx, SyncWithin)
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
	var said []control.Status
	for _, n := range p.Appliances() {
		s, _ := n.Status(ctx) // one that does not answer has said nothing
		said = append(said, s)
	}
	return p.judge(said)
}

// AwaitInSync waits until the pair is in sync and has its witness, and notes who is active.
func (p *Pair) AwaitInSync(ctx context.Context, limit time.Duration) error {
	var why string
	_, err := Await(ctx, limit, "the pair is in sync", func(said []control.Status) bool {
		why = p.judge(said)
		return why == ""
	}, p.Appliances()...)
	if err != nil && why != "" {
		err = fmt.Errorf("%w\n(%s)", err, why)
	}
	return err
}

// judge what a and b have said.
func (p *Pair) judge(said []control.Status) (why string) {
	p.Active, p.Standby = nil, nil
	a, b := said[0], said[1]
	p.Epoch = max(p.Epoch, a.Epoch, b.Epoch)
	active, standby := p.A, p.B
	if b.Role == control.RoleActive && a.Role != control.RoleActive {
		active, standby = p.B, p.A
		said = []control.Status{b, a}
	}
	if !InSync(said) {
		return fmt.Sprintf("a is %s; b is %s", describe(a), describe(b))
	}
	for _, s := range said {
		if p.W != nil && (s.Quorum == nil || !s.Quorum.Witness) {
			return fmt.Sprintf("%s's witness is not connected", s.Node)
		}
	}
	p.Active, p.Standby = active, standby
	return ""
}

// InSync tells whether these are the words of an active and of its standby, which holds everything.
func InSync(said []control.Status) bool {
	return len(said) == 2 && said[0].Role == control.RoleActive && said[1].Role == control.RoleStandby && said[0].InSync && said[1].InSync
}

func describe(s control.Status) string {
	if s.Role == "" {
		return "not answering"
	}
	return fmt.Sprintf("%s, epoch %d, in sync %v %s", s.Role, s.Epoch, s.InSync, s.WhyNotInSync)
}

// Leading is who seems to be active, however the pair stands: the one with the higher epoch of those
// that say so.
func (p *Pair) Leading(ctx context.Context) *Node {
	a, _ := p.A.Status(ctx)
	b, _ := p.B.Status(ctx)
	if b.Role == control.RoleActive && (a.Role != control.RoleActive || b.Epoch > a.Epoch) {
		return p.B
	}
	return p.A
}

// End lets all nodes end in order, at once, and kills what does not.
func (p *Pair) End() {
	var wg sync.WaitGroup
	for _, n := range p.Nodes() {
		wg.Go(n.end)
	}
	wg.Wait()
}
