// Package rig runs whole appliances, and a witness, inside the lab's standard topology in Go tests: the
// common ground of the end-to-end tests.
//
// It is internal/pair for tests: what goes wrong ends the test, everything ends with it. The
// appliances are the test binary itself, so they run with the race detector whenever the tests do. It
// must not know what is tested: servers, clients and load are the caller's business.
package rig

import (
	"cmp"
	"context"
	"maps"
	"strings"
	"syscall"
	"testing"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/labtest"
	"lockstep/internal/pair"
)

// Generous times of a pair: a busy test machine must not look like a dead appliance. Most tests
// kill the process, which closes the session at once.
const (
	generousHeartbeat = 50 * time.Millisecond
	generousTimeout   = time.Second
)

// answerIn is how long an appliance may take to answer on a busy machine; one that is dead refuses
// at once.
const answerIn = 10 * time.Second

// Options of a pair. Services is needed.
type Options struct {
	lab.PairOptions
	Services []config.Service
	// Tune changes what both appliances have, which are generous times and hosts that are pinged; nil:
	// nothing. The witness gets its times from there.
	Tune func(*config.Config)
	// Clocks are the speeds of a's, b's and w's clocks: 0.99 is one per cent too slow. Not
	// named: true. Only New reads them.
	Clocks map[string]float64
}

func (o *Options) config() *config.Config {
	c := pair.Config("e2e", o.Services...)
	c.Pair.Heartbeat, c.Pair.FailureTimeout = generousHeartbeat, generousTimeout
	c.Log.Level = "debug"
	pair.Reach(c, "10.20.0.11")
	if o.Tune != nil {
		o.Tune(c)
	}
	return c
}

// Service is one with the product's defaults, but for its path: netstack, unless the environment says otherwise
// (pair.Service). What these tests break is mostly in the endpoints, and the default has tests of its own.
func Service(name string, listen, servers []string) config.Service {
	s := pair.Service(name, listen, servers)
	if !pair.PathIsSet() {
		s.Path = config.PathNetstack
	}
	return s
}

// Main is to be called first in TestMain, with the roles that the test has besides: it is lab.Main,
// and plays the nodes.
func Main(roles lab.Roles) {
	all := pair.Roles()
	maps.Copy(all, roles)
	lab.Main(all)
}

// Pair is the standard topology with the keys of its appliances. Nothing runs in it yet.
type Pair struct {
	*lab.PairLab
	T     testing.TB
	Dir   string // keys, configuration and state of everything
	nodes *pair.Pair
}

// New lays the topology. It ends with the test.
func New(t testing.TB, o Options) *Pair {
	t.Helper()
	labtest.RequireRoot(t)
	dir := t.TempDir() // first: it goes when everything in the lab has ended
	p := &Pair{T: t, PairLab: labtest.Pair(t, o.PairOptions), Dir: dir}
	var err error
	p.nodes, err = pair.New(p.PairLab, o.config(), pair.Options{Dir: dir, Speed: func(node string) float64 { return cmp.Or(o.Clocks[node], 1) }})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range p.nodes.Appliances() {
		n.AnswerIn = answerIn
	}
	return p
}

// AwaitInSync waits until b is the standby of a and holds everything.
func (p *Pair) AwaitInSync() { p.T.Helper(); p.AwaitInSyncAs("b") }

// AwaitInSyncAs waits until that node is the standby and holds everything.
func (p *Pair) AwaitInSyncAs(standby string) {
	p.T.Helper()
	p.Await("the pair is in sync", func() bool {
		return p.Status("a").InSync && p.Status("b").InSync && p.Status(standby).Role == control.RoleStandby
	})
}

// Appliance starts a or b on the host of that name, with that configuration.
func (p *Pair) Appliance(node string, o Options) *lab.Proc {
	p.T.Helper()
	return p.start(node, o)
}

// Witness starts the witness, with the same times as the pair.
func (p *Pair) Witness(o Options) *lab.Proc {
	p.T.Helper()
	return p.start(pair.WitnessName, o)
}

// start a node, whose former process is ending.
func (p *Pair) start(name string, o Options) *lab.Proc {
	p.T.Helper()
	n := p.nodes.Node(name)
	if err := n.Configure(o.config()); err != nil {
		p.T.Fatal(err)
	}
	if err := n.Start(context.Background()); err != nil {
		p.T.Fatal(err)
	}
	proc := n.Process()
	p.T.Cleanup(func() {
		// Its race detector speaks to nobody else: it may be killed before it could exit with a status.
		if strings.Contains(proc.Output(), "WARNING: DATA RACE") {
			p.T.Errorf("the race detector has found something in %s", name)
		}
		if p.T.Failed() {
			if proc.Running() && proc.Signal(syscall.SIGUSR1) == nil {
				<-time.After(300 * time.Millisecond) // diagnostics only: time to write the dump
			}
			p.T.Logf("--- %s:\n%s", name, proc.Tail(60))
		}
	})
	return proc
}

// Socket is the path of an appliance's control socket.
func (p *Pair) Socket(node string) string { return p.nodes.Node(node).Socket() }

// Status asks an appliance; a zero Status if it does not answer.
func (p *Pair) Status(node string) control.Status {
	s, _ := p.nodes.Node(node).Status(context.Background())
	return s
}

// Kept is what an appliance says of a service whose connections outlive their servers.
func (p *Pair) Kept(node, service string) control.Kept {
	for _, s := range p.Status(node).Services {
		if s.Name == service && s.Kept != nil {
			return *s.Kept
		}
	}
	return control.Kept{}
}

// Await polls until ok, for a minute at most.
func (p *Pair) Await(what string, ok func() bool) {
	p.T.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			p.T.Fatalf("not reached within a minute: %s\na: %+v\nb: %+v", what, p.Status("a"), p.Status("b"))
		}
		<-time.After(20 * time.Millisecond)
	}
}

// Kill ends a process as a power cut does.
func (p *Pair) Kill(proc *lab.Proc) {
	p.T.Helper()
	if err := proc.Kill(); err != nil {
		p.T.Fatal(err)
	}
}
