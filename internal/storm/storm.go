package storm

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/pair"
)

const (
	syncWithin = time.Minute // after a fault's end the pair must be in sync
	pollEvery  = 25 * time.Millisecond
	// statedFor is how long after a fault's end the loss of a connection is put down to it.
	statedFor = 20 * time.Second
)

// storm is one that is going on.
type storm struct {
	opts options
	view *view
	out  string
	stop context.CancelFunc

	stormLab

	// looking is held while evidence is collected: no fault begins meanwhile.
	looking sync.Mutex

	// Of the goroutine that makes the faults:
	tallies     map[string]*tally
	divergences divergences

	mu sync.Mutex
	stormFaults
}

// stormLab is made before the first fault, and stays.
type stormLab struct {
	pair     *lab.PairLab
	nodes    *pair.Pair
	stranger *lab.Host
	load     *load
	servers  *servers // nil: not asked for
	web      *web     // nil: not asked for
	records  map[string]*lab.Recorder
}

// stormFaults is guarded by storm.mu.
type stormFaults struct {
	number   int // of faults so far
	fault    *fault
	ended    time.Time // when the latest fault ended; zero: it has not
	unready  bool      // the pair was not in sync when it began
	findings []*finding
	total    int
	folders  int
	starved  starving
}

func run(ctx context.Context, opts options, v *view) (*report, error) {
	dir, err := os.MkdirTemp("", "lockstep-storm-")
	if err != nil {
		return nil, fmt.Errorf("create temporary directory: %w", err)
	}
	defer os.RemoveAll(dir)
	s := &storm{opts: opts, view: v, out: opts.out, tallies: make(map[string]*tally), divergences: make(divergences)}
	s.records = make(map[string]*lab.Recorder)
	if s.out == "" {
		if s.out, err = os.MkdirTemp("", "lockstep-storm-evidence-"); err != nil {
			return nil, fmt.Errorf("create directory for evidence: %w", err)
		}
		defer func() { _ = os.Remove(s.out) }() // if it is empty
	}
	ctx, s.stop = context.WithCancel(ctx)
	defer s.stop()
	v.say("seed %d: %s", opts.seed, opts.repeat())
	if err := s.build(ctx, dir); err != nil {
		return nil, err
	}
	defer s.pair.Close()
	defer s.end()
	if err := s.nodes.Start(ctx); err != nil {
		return nil, err
	}
	if why := s.ready(ctx); why != "" {
		return nil, fmt.Errorf("the pair is not in sync at the beginning: %s", why)
	}
	return s.play(ctx)
}

// build lays the networks and writes the configuration of everything.
func (s *storm) build(ctx context.Context, dir string) (err error) {
	kind := lab.Switch
	if s.opts.bridge {
		kind = lab.Kernel
	}
	net := lab.NetOptions{Kind: kind}
	s.pair, err = lab.Pair(ctx, lab.PairOptions{Options: lab.Options{Seed: s.opts.seed}, Front: net, Back: net, Sync: net, Witness: s.opts.witness, Servers: 2})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = s.pair.Close()
		}
	}()
	if s.stranger, err = s.pair.Host("stranger"); err != nil {
		return err
	}
	if _, err = s.stranger.Attach(s.pair.Front, lab.FrontIf, stranger4+"/24", stranger6+"/64"); err != nil {
		return err
	}
	if s.nodes, err = pair.New(s.pair, s.opts.configuration(), s.pairOptions(dir)); err != nil {
		return err
	}
	for _, n := range []*lab.Network{s.pair.Front, s.pair.Back, s.pair.Sync} {
		if s.records[n.Name()], err = n.Record(recordSize); err != nil {
			return err
		}
	}
	if s.opts.servers {
		if s.servers, err = startServers(ctx, s); err != nil {
			return err
		}
	}
	if s.load, err = newLoad(s); err != nil || !s.opts.real {
		return err
	}
	s.web, err = newWeb(ctx, s, filepath.Join(dir, "web"))
	return err
}

// The two services of the checked load: servers see the clients' addresses, or the gateway's.
const (
	clientPort  = 80
	gatewayPort = 81
)

// diskSize is the size of the file system that has a node's state, bytes.
const diskSize = 4 << 20

func (s *storm) pairOptions(dir string) pair.Options {
	o := pair.Options{Dir: dir, Self: s.opts.self, Disk: diskSize}
	if s.opts.clocks {
		rng := rand.New(rand.NewPCG(s.opts.seed, 3))
		o.Speed = func(string) float64 { return 0.99 + 0.02*rng.Float64() }
	}
	return o
}

func (s *storm) hosts() []*lab.Host {
	return append([]*lab.Host{s.pair.Client, s.pair.A, s.pair.B}, s.pair.Servers...)
}

// on is the node that plays a role now.
func (s *storm) on(target string) *pair.Node {
	switch target {
	case onActive:
		return s.nodes.Active
	case onStandby:
		return s.nodes.Standby
	}
	return s.nodes.W
}

func (s *storm) network(name string) *lab.Network {
	return map[string]*lab.Network{"front": s.pair.Front, "back": s.pair.Back, "sync": s.pair.Sync}[name]
}

func (s *storm) port(target, network string) *lab.Port {
	return s.network(network).PortOf(s.on(target).Host)
}

// play lets faults happen and connections run.
func (s *storm) play(ctx context.Context) (*report, error) {
	begin := time.Now()
	flying, ground := context.WithCancel(ctx)
	defer ground()
	var workers, watcher sync.WaitGroup
	watching, blind := context.WithCancel(ctx)
	s.load.run(flying, &workers)
	if s.web != nil {
		workers.Go(func() { s.web.run(flying, s.load.finish) })
	}
	watcher.Go(func() { s.load.watch(watching) })
	watcher.Go(func() { newHunger(s).watch(watching) })
	err := s.faults(ctx, begin)
	close(s.load.finish)
	landed := make(chan struct{})
	go func() { workers.Wait(); close(landed) }()
	select {
	case <-landed:
	case <-time.After(lastWord + 2*patience):
	case <-ctx.Done():
	}
	ground()
	<-landed
	blind()
	watcher.Wait()
	return s.report(begin), err
}

// faults happen one after the other.
func (s *storm) faults(ctx context.Context, begin time.Time) error {
	next, err := newForecast(&s.opts)
	if err != nil {
		return err
	}
	for n := 1; (s.opts.count == 0 || n <= s.opts.count) && time.Since(begin) < s.opts.duration; n++ {
		f, pause := next.next()
		if lab.Pause(ctx, pause) != nil {
			return nil
		}
		if err := s.await(ctx); err != nil || ctx.Err() != nil {
			return err
		}
		s.awaitEvidence()
		if err := s.happen(ctx, n, f); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("fault %d (%s): %w", n, f.What, err)
		}
	}
	if err := s.await(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	return nil
}

// awaitEvidence waits for the evidence of what was found before.
func (s *storm) awaitEvidence() {
	s.looking.Lock()
	defer s.looking.Unlock()
}

// await waits until the next fault may happen.
func (s *storm) await(ctx context.Context) error {
	if s.opts.quick {
		_ = s.nodes.Look(ctx) // only to know who is what
		return nil
	}
	why := s.ready(ctx)
	if why == "" || ctx.Err() != nil {
		return nil
	}
	s.find(finding{Kind: findSync, Detail: fmt.Sprintf("not within %v of the fault's end: %s", syncWithin, why)})
	return s.startOver(ctx)
}

// startOver is the way out of what does not end: both appliances are killed and started again. What
// becomes of the connections is nobody's fault.
func (s *storm) startOver(ctx context.Context) error {
	s.view.bad("both appliances are started anew; the present connections do not count")
	s.load.writeOff()
	for _, n := range []*pair.Node{s.nodes.A, s.nodes.B} {
		n.ExpectEnd()
		_ = n.Process().Cont()
		_ = n.Process().Kill()
		if err := n.Start(ctx); err != nil {
			return err
		}
	}
	s.load.writeOff() // and those that have begun meanwhile
	if why := s.ready(ctx); why != "" && ctx.Err() == nil {
		return fmt.Errorf("the pair is not in sync even after a new start: %s", why)
	}
	return nil
}

// happen makes one fault happen, and waits until it is over and what can be waited for has come.
func (s *storm) happen(ctx context.Context, n int, f *fault) error {
	s.mu.Lock()
	found := s.total
	s.number, s.fault, s.ended, s.unready = n, f, time.Time{}, s.nodes.Active == nil
	unready := s.unready
	s.mu.Unlock()
	if unready {
		s.nodes.Active = s.nodes.Leading(ctx)
		s.nodes.Standby = s.nodes.Other(s.nodes.Active)
	}
	before := s.nodes.Epoch
	s.view.say("#%d %s for %v (active %s)", n, f.What, f.Length, s.nodes.Active.Name)
	s.load.begins()
	if err := f.inject(ctx, s); err != nil {
		s.find(finding{Kind: findBreak, Detail: err.Error()})
	}
	over := lab.Pause(ctx, f.Length) == nil
	err := f.heal(context.WithoutCancel(ctx), s)
	end := time.Now()
	s.mu.Lock()
	s.ended = end
	s.mu.Unlock()
	s.load.ends()
	if err != nil || !over {
		return err
	}
	return s.settle(ctx, n, f, before, found, end)
}

// settle waits for the pair and the connections, and notes how long they took.
func (s *storm) settle(ctx context.Context, n int, f *fault, before uint64, found int, end time.Time) error {
	t := s.tallies[f.What]
	if t == nil {
		t = &tally{}
		s.tallies[f.What] = t
	}
	t.Count++
	if err := s.await(ctx); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return nil
	}
	synced := time.Since(end)
	if !s.opts.quick {
		for s.load.waiting() > 0 && lab.Pause(ctx, pollEvery) == nil {
		}
		moved := time.Since(end)
		t.synced, t.moved = append(t.synced, synced), append(t.moved, moved)
		s.view.say("#%d in sync after %v, all moving after %v (active %s)", n, synced.Round(time.Millisecond), moved.Round(time.Millisecond), s.nodes.Active.Name)
	}
	if err := s.repaired(ctx, f); err != nil {
		return err
	}
	if err := s.astray(ctx); err != nil {
		return err
	}
	s.diverged(ctx)
	t.Takeovers += int(s.nodes.Epoch - before)
	s.mu.Lock()
	t.Findings += s.total - found
	s.mu.Unlock()
	return nil
}

// repaired demands that the appliances have put back what a fault has taken away; if not, they are
// started anew.
func (s *storm) repaired(ctx context.Context, f *fault) error {
	if f.mended == nil {
		return nil
	}
	missing, err := f.mended(s)
	if err != nil || missing == "" {
		return err
	}
	s.find(finding{Kind: findKept, Detail: "still missing: " + missing})
	return s.startOver(ctx)
}

// ready waits until the pair is in sync, and returns why it is not.
func (s *storm) ready(ctx context.Context) (why string) {
	deadline := time.Now().Add(syncWithin)
	for looks := 0; ; looks++ {
		for _, n := range s.nodes.Nodes() {
			if !n.Crashed() {
				continue
			}
			s.find(finding{Kind: findCrash, Detail: fmt.Sprintf("%s ended by itself (%v):\n%s", n.Name, n.Process().Err(), n.Process().Tail(5))})
			if err := n.Start(ctx); err != nil {
				return err.Error()
			}
		}
		if why = s.nodes.Look(ctx); why == "" {
			return ""
		}
		// A driver that got no CPU has not looked.
		if time.Now().After(deadline) && looks > int(syncWithin/pollEvery)/4 {
			return why
		}
		if lab.Pause(ctx, pollEvery) != nil {
			return why
		}
	}
}

// stated is why a connection to a service's port that is lost now may be; empty: it may not.
func (s *storm) stated(port int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault == nil || !s.ended.IsZero() && time.Since(s.ended) > statedFor {
		return ""
	}
	if s.unready {
		return "the pair was not in sync when the fault happened"
	}
	if s.fault.stated == nil {
		return ""
	}
	return s.fault.stated(port)
}

// describe the latest fault; s.mu is held.
func (s *storm) describe() string {
	if s.fault == nil {
		return "none yet"
	}
	return fmt.Sprintf("%s for %v", s.fault.What, s.fault.Length)
}

// end lets everything end in order.
func (s *storm) end() {
	s.nodes.End()
	for _, r := range s.records {
		r.Close()
	}
	s.load.close()
}

func (s *storm) report(begin time.Time) *report {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.load.mu.Lock()
	defer s.load.mu.Unlock()
	r := &report{OK: s.total == 0, Version: control.Version(), Seed: s.opts.seed, Repeat: s.opts.repeat(), Duration: time.Since(begin).Seconds(),
		Faults: s.number, Kinds: s.tallies, Load: s.load.count, Starved: s.starved, Findings: s.findings, Found: s.total}
	if s.folders > 0 {
		r.Evidence = s.out
	}
	for _, t := range s.tallies {
		t.SyncedMS, t.MovedMS = spreadOf(t.synced), spreadOf(t.moved)
	}
	return r
}
