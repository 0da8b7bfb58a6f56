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
)

const (
	syncWithin = time.Minute // after a fault's end the pair must be in sync
	pollEvery  = 25 * time.Millisecond
	// statedFor is how long after a fault's end the loss of a connection is put down to it.
	statedFor = 20 * time.Second
)

// storm is one that is going on.
type storm struct {
	opts     options
	view     *view
	pair     *lab.PairLab
	a, b, w  *node // w is nil without a witness
	stranger *lab.Host
	load     *load
	web      *web // nil: not asked for
	records  map[string]*lab.Recorder
	out      string
	stop     context.CancelFunc

	// looking is held while evidence is collected: no fault begins meanwhile.
	looking sync.Mutex

	// Of the goroutine that makes the faults.
	active, standby *node
	epoch           uint64
	tallies         map[string]*tally

	mu       sync.Mutex
	number   int // of faults so far
	fault    *fault
	ended    time.Time // when the latest fault ended; zero: it has not
	unready  bool      // the pair was not in sync when it began
	findings []*finding
	total    int
	folders  int
}

func run(ctx context.Context, opts options, v *view) (*report, error) {
	dir, err := os.MkdirTemp("", "lockstep-storm-")
	if err != nil {
		return nil, fmt.Errorf("create temporary directory: %w", err)
	}
	defer os.RemoveAll(dir)
	s := &storm{opts: opts, view: v, out: opts.out, tallies: make(map[string]*tally), records: make(map[string]*lab.Recorder)}
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
	if err := s.startNodes(); err != nil {
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
	if err = makeKeys(ctx, s.opts.self, filepath.Join(dir, "keys")); err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(s.opts.seed, 3))
	for _, n := range []struct {
		host *lab.Host
		node **node
	}{{s.pair.A, &s.a}, {s.pair.B, &s.b}, {s.pair.W, &s.w}} {
		if n.host == nil {
			continue
		}
		speed := 1.0
		if s.opts.clocks {
			speed = 0.99 + 0.02*rng.Float64()
		}
		if *n.node, err = newNode(n.host, dir, s.opts, speed); err != nil {
			return err
		}
	}
	for _, n := range []*lab.Network{s.pair.Front, s.pair.Back, s.pair.Sync} {
		if s.records[n.Name()], err = n.Record(recordSize); err != nil {
			return err
		}
	}
	if s.load, err = newLoad(s); err != nil || !s.opts.real {
		return err
	}
	s.web, err = newWeb(ctx, s, filepath.Join(dir, "web"))
	return err
}

func (s *storm) nodes() []*node {
	if s.w == nil {
		return []*node{s.a, s.b}
	}
	return []*node{s.a, s.b, s.w}
}

func (s *storm) hosts() []*lab.Host {
	return append([]*lab.Host{s.pair.Client, s.pair.A, s.pair.B}, s.pair.Servers...)
}

func (s *storm) startNodes() error {
	for _, n := range s.nodes() {
		if err := n.start(); err != nil {
			return err
		}
	}
	return nil
}

// on is the node that plays a role now.
func (s *storm) on(target string) *node {
	switch target {
	case onActive:
		return s.active
	case onStandby:
		return s.standby
	}
	return s.w
}

func (s *storm) network(name string) *lab.Network {
	return map[string]*lab.Network{"front": s.pair.Front, "back": s.pair.Back, "sync": s.pair.Sync}[name]
}

func (s *storm) port(target, network string) *lab.Port {
	return s.network(network).PortOf(s.on(target).host)
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
		if !sleep(ctx, pause) {
			return nil
		}
		if err := s.await(ctx); err != nil || ctx.Err() != nil {
			return err
		}
		s.looking.Lock()
		s.looking.Unlock() //nolint:staticcheck // only to wait for the evidence of what was found before
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

// await waits until the next fault may happen.
func (s *storm) await(ctx context.Context) error {
	if s.opts.quick {
		s.lookQuickly(ctx)
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
	for _, n := range []*node{s.a, s.b} {
		n.expectEnd()
		_ = n.process().Cont()
		_ = n.process().Kill()
		if err := restart(ctx, n); err != nil {
			return err
		}
	}
	if why := s.ready(ctx); why != "" && ctx.Err() == nil {
		return fmt.Errorf("the pair is not in sync even after a new start: %s", why)
	}
	return nil
}

// happen makes one fault happen, and waits until it is over and what can be waited for has come.
func (s *storm) happen(ctx context.Context, n int, f *fault) error {
	s.mu.Lock()
	found := s.total
	s.number, s.fault, s.ended, s.unready = n, f, time.Time{}, s.active == nil || s.standby == nil
	unready := s.unready
	s.mu.Unlock()
	if unready {
		if s.active = s.a; s.epochOf(ctx, s.b) > s.epochOf(ctx, s.a) {
			s.active = s.b
		}
		s.standby = s.other(s.active)
	}
	before := s.epoch
	s.view.say("#%d %s for %v (active %s)", n, f.What, f.Length, s.active.name)
	s.load.begins()
	if err := f.inject(ctx, s); err != nil {
		s.find(finding{Kind: findBreak, Detail: err.Error()})
	}
	over := sleep(ctx, f.Length)
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
		for s.load.waiting() > 0 && sleep(ctx, pollEvery) {
		}
		moved := time.Since(end)
		t.synced, t.moved = append(t.synced, synced), append(t.moved, moved)
		s.view.say("#%d in sync after %v, all moving after %v (active %s)", n, synced.Round(time.Millisecond), moved.Round(time.Millisecond), s.active.name)
	}
	if err := s.repaired(ctx, f); err != nil {
		return err
	}
	t.Takeovers += int(s.epoch - before)
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

func (s *storm) other(n *node) *node {
	if n == s.a {
		return s.b
	}
	return s.a
}

func (s *storm) epochOf(ctx context.Context, n *node) uint64 { return n.status(ctx).Epoch }

// lookQuickly notes who is what, without waiting for anything.
func (s *storm) lookQuickly(ctx context.Context) {
	s.active, s.standby = nil, nil
	_ = s.inSync(s.a.status(ctx), s.b.status(ctx))
}

// ready waits until the pair is in sync, and returns why it is not.
func (s *storm) ready(ctx context.Context) (why string) {
	deadline := time.Now().Add(syncWithin)
	for looks := 0; ; looks++ {
		for _, n := range s.nodes() {
			if !n.crashed() {
				continue
			}
			s.find(finding{Kind: findCrash, Detail: fmt.Sprintf("%s ended by itself (%v):\n%s", n.name, n.process().Err(), n.process().Tail(5))})
			if err := n.start(); err != nil {
				return err.Error()
			}
		}
		if why = s.inSync(s.a.status(ctx), s.b.status(ctx)); why == "" {
			return ""
		}
		// A driver that got no CPU has not looked.
		if time.Now().After(deadline) && looks > int(syncWithin/pollEvery)/4 {
			return why
		}
		if !sleep(ctx, pollEvery) {
			return why
		}
	}
}

// inSync says why the two are not, and notes who is active.
func (s *storm) inSync(a, b control.Status) string {
	said := func(st control.Status) string {
		if st.Role == "" {
			return "does not answer"
		}
		return fmt.Sprintf("%s, epoch %d, in sync %v %s", st.Role, st.Epoch, st.InSync, st.WhyNotInSync)
	}
	why := fmt.Sprintf("a is %s; b is %s", said(a), said(b))
	active, standby := s.a, s.b
	if b.Role == control.RoleActive && a.Role != control.RoleActive {
		active, standby, a, b = s.b, s.a, b, a
	}
	if a.Role != control.RoleActive || b.Role != control.RoleStandby || !a.InSync || !b.InSync {
		return why
	}
	for _, st := range []control.Status{a, b} {
		if s.w != nil && (st.Quorum == nil || !st.Quorum.Witness) {
			return why + "; the witness is not connected"
		}
	}
	s.active, s.standby, s.epoch = active, standby, a.Epoch
	return ""
}

// stated is why a connection that is lost now may be; empty: it may not.
func (s *storm) stated() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault == nil || !s.ended.IsZero() && time.Since(s.ended) > statedFor {
		return ""
	}
	if s.unready {
		return "the pair was not in sync when the fault happened"
	}
	return s.fault.stated
}

// describe the latest fault; s.mu is held.
func (s *storm) describe() string {
	if s.fault == nil {
		return "none yet"
	}
	return fmt.Sprintf("%s for %v", s.fault.What, s.fault.Length)
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// end lets everything end in order.
func (s *storm) end() {
	for _, n := range s.nodes() {
		n.expectEnd()
		if n.client != nil {
			n.client.Close()
		}
		if p := n.process(); p != nil && p.Running() {
			_ = p.Terminate(endGrace)
		}
	}
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
		Faults: s.number, Kinds: s.tallies, Load: s.load.count, Findings: s.findings, Found: s.total}
	if s.folders > 0 {
		r.Evidence = s.out
	}
	for _, t := range s.tallies {
		t.SyncedMS, t.MovedMS = spreadOf(t.synced), spreadOf(t.moved)
	}
	return r
}
