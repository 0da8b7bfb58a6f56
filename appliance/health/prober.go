package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"lockstep/appliance/config"
)

// spacing is the least time between the starts of two probes of one server: 50 a
// second, however many connections ask.
const spacing = 20 * time.Millisecond

// Errors of Now that say nothing about the server. errStopped is also returned before
// Start.
var (
	errPaused  = errors.New("health: paused")
	errStopped = errors.New("health: stopped")
)

// Dial opens a TCP connection to a server. It must return soon after ctx ends.
type Dial func(ctx context.Context, addr netip.AddrPort) (net.Conn, error)

// Config is what a Prober needs.
type Config struct {
	Servers []netip.AddrPort
	Health  config.Health // as package config has checked it
	// Probed is told, as onChange is and before it, after each probe what the server is
	// taken for now; may be nil. Who uses a server although it was down learns so that it
	// is down now, and not only was.
	Probed func(server int, up bool, why string)
	// Wanted is asked before each periodic probe of a server that is up: false puts it
	// off for an interval, since nothing depends on what it would find. nil: always.
	Wanted func() bool
}

// serverStatus is what is known of one server.
type serverStatus struct {
	Up       bool          // a server that was never probed is taken for up
	Why      string        // of Up, for people
	Since    time.Time     // since when Up is what it is
	Latency  time.Duration // of the last probe that succeeded; 0: none yet
	Probes   uint64        // made
	Failures uint64        // of them, failed
	Asked    uint64        // calls of Now
}

// Prober probes the servers of one service. Its methods may be called concurrently.
type Prober struct {
	cfg      Config
	dial     Dial
	onChange func(server int, up bool, why string)

	quit   context.Context // ends with Stop
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex // guards all below, and the targets' fields that say so
	running bool
	live    context.Context // ends with Pause; nil while paused
	mute    context.CancelFunc
	targets []*target
}

// target is a server.
type target struct {
	server int
	addr   netip.AddrPort
	wake   chan struct{} // cap 1: look again

	// Guarded by Prober.mu.
	status  serverStatus
	passed  time.Time // when a client's connection last showed that it lives
	waiting *flight   // the next probe, which somebody waits for; nil: nobody does
	current *flight   // the probe under way; nil: none is
	due     bool      // probe at once, although nobody waits

	// Of the target's goroutine.
	begun   time.Time // the last probe
	next    time.Time // the next periodic one
	suspect bool      // up, but the last probe failed
}

// flight is one probe and everybody who waits for it.
type flight struct {
	open     bool          // who comes now may wait for it, too; guarded by Prober.mu
	thorough bool          // somebody asked
	done     chan struct{} // closed when err is set
	err      error
}

func newFlight() *flight { return &flight{open: true, done: make(chan struct{})} }

func (f *flight) land(err error) {
	if f != nil {
		f.err = err
		close(f.done)
	}
}

// New makes a prober that does nothing before Start. Whenever a server goes up or
// down onChange is told, from one goroutine per server; it must be quick and must not
// call Stop. It may still be running when Pause returns, not when Stop does.
func New(cfg Config, dial Dial, onChange func(server int, up bool, why string)) *Prober {
	p := &Prober{cfg: cfg, dial: dial, onChange: onChange}
	p.quit, p.cancel = context.WithCancel(context.Background())
	p.live, p.mute = context.WithCancel(p.quit)
	now := time.Now()
	for i, addr := range cfg.Servers {
		p.targets = append(p.targets, &target{
			server: i, addr: addr, wake: make(chan struct{}, 1),
			status: serverStatus{Up: true, Why: "not probed yet", Since: now},
		})
	}
	return p
}

// Start begins to probe, at once, unless Pause was called. It may be called once, and
// not after Stop.
func (p *Prober) Start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = true
	for _, t := range p.targets {
		p.wg.Add(1)
		go func() {
			defer p.wg.Done()
			p.run(t)
		}()
	}
}

// Stop ends all probes and returns when every goroutine has ended.
func (p *Prober) Stop() {
	p.mu.Lock()
	p.running = false
	p.ground(errStopped)
	p.mu.Unlock()
	p.cancel()
	p.wg.Wait()
}

// Pause ends the probes under way and makes no more: the appliance is mute.
func (p *Prober) Pause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.live == nil {
		return
	}
	p.mute()
	p.live, p.mute = nil, nil
	p.ground(errPaused)
}

// Resume probes all servers at once, and goes on: what is known is old.
func (p *Prober) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.live != nil {
		return
	}
	p.live, p.mute = context.WithCancel(p.quit)
	for _, t := range p.targets {
		t.due = p.wanted(t)
		t.hurry()
	}
}

// wanted reports whether anything depends on a periodic probe. p.mu is held.
func (p *Prober) wanted(t *target) bool {
	return p.cfg.Wanted == nil || !t.status.Up || p.cfg.Wanted()
}

// Passed tells that a server has just accepted a client's connection. To a tcp probe
// that is as good as one of its own, so the next is put off; a hung process accepts
// connections, too, so to an http probe it says nothing.
func (p *Prober) Passed(server int) {
	if p.cfg.Health.HTTP != "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.targets[server]; t.status.Up {
		t.passed = time.Now()
		t.status.Why = "serves clients"
	}
}

// Doubt has a server probed at once: it has refused a client's connection, or not
// answered.
func (p *Prober) Doubt(server int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.targets[server]
	t.due, t.passed = true, time.Time{}
	t.hurry()
}

// ground sends away all who wait for a probe that will not be made. p.mu is held.
func (p *Prober) ground(why error) {
	for _, t := range p.targets {
		t.waiting.land(why)
		t.waiting = nil
		if t.current != nil {
			t.current.open = false // it was ended; its end may come later
		}
		t.hurry()
	}
}

func (t *target) hurry() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// status returns what is known of each server, in the order of Config.Servers.
func (p *Prober) status() []serverStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]serverStatus, len(p.targets))
	for i, t := range p.targets {
		all[i] = t.status
	}
	return all
}

// Now probes a server and returns nil if it lives. What it says is about the time
// after the call: the steps that prove it began after it. So a server that was killed
// before the call is not taken for alive.
//
// Callers share probes: those who come while one is proving something wait together
// for the next. It takes two timeouts and 20 ms at most, not counting pauses of this process. If the error is errPaused,
// errStopped or ctx's, nothing was found out about the server.
func (p *Prober) Now(ctx context.Context, server int) error {
	f, err := p.board(server)
	if err != nil {
		return err
	}
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// board finds the probe that Now waits for.
func (p *Prober) board(server int) (*flight, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !p.running:
		return nil, errStopped
	case p.live == nil:
		return nil, errPaused
	case server < 0 || server >= len(p.targets):
		return nil, fmt.Errorf("health: there is no server %d", server)
	}
	t := p.targets[server]
	t.status.Asked++
	if t.current != nil && t.current.open {
		return t.current, nil
	}
	if t.waiting == nil {
		t.waiting = newFlight()
		t.hurry()
	}
	return t.waiting, nil
}

// run probes one server until Stop.
func (p *Prober) run(t *target) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-p.quit.Done():
			return
		case <-t.wake:
		case <-timer.C:
		}
		live, f, in := p.takeOff(t)
		switch {
		case live == nil:
			timer.Stop()
		case f == nil:
			timer.Reset(in)
		default:
			p.fly(live, t, f)
			timer.Reset(0)
		}
	}
}

// takeOff returns the probe that is to be made now, or how long to wait for it. live
// is nil while paused, and ends when the probe must.
func (p *Prober) takeOff(t *target) (live context.Context, f *flight, in time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.live == nil {
		return nil, nil, 0
	}
	now := time.Now()
	if t.waiting == nil && !t.due {
		if !t.suspect {
			t.next = later(t.next, t.passed.Add(p.cfg.Health.Interval))
			if !t.next.After(now) && !p.wanted(t) {
				t.next = now.Add(p.cfg.Health.Interval)
			}
		}
		in = t.next.Sub(now)
	}
	if in = max(in, t.begun.Add(spacing).Sub(now)); in > 0 {
		return p.live, nil, in
	}
	if f = t.waiting; f == nil {
		f = newFlight()
		// One connection is enough if nobody asks; it proves too little for who does.
		f.open = p.cfg.Health.HTTP != ""
	}
	f.thorough = t.waiting != nil
	t.waiting, t.current, t.due = nil, f, false
	return p.live, f, 0
}

// lateProbes is how many probes in a row are made again because their end was seen late: this process had no CPU or was
// stopped, and an answer may be waiting to be read. The next counts: a server that is gone must be found out at last.
const lateProbes = 3

// fly makes one probe.
func (p *Prober) fly(live context.Context, t *target, f *flight) {
	for again := 0; ; again++ {
		t.begun = time.Now()
		t.next = t.begun.Add(p.cfg.Health.Interval)
		ctx, cancel := context.WithTimeout(live, p.cfg.Health.Timeout)
		err := p.probe(ctx, t.addr, f.thorough, func() {
			p.mu.Lock()
			f.open = false
			p.mu.Unlock()
		})
		late := ctx.Err() != nil && time.Since(t.begun) > p.cfg.Health.Timeout*3/2
		cancel()
		if err == nil || !late || again == lateProbes || live.Err() != nil {
			p.landed(live, t, f, err)
			return
		}
	}
}

// landed tells everybody what a probe has found.
func (p *Prober) landed(live context.Context, t *target, f *flight, err error) {
	took := time.Since(t.begun)
	p.mu.Lock()
	t.current = nil
	if live.Err() != nil {
		err = errPaused
		if !p.running {
			err = errStopped
		}
		p.mu.Unlock()
		f.land(err)
		return
	}
	was := t.status.Up
	p.judge(t, took, err)
	up, why := t.status.Up, t.status.Why
	p.mu.Unlock()
	f.land(err)
	if p.cfg.Probed != nil {
		p.cfg.Probed(t.server, up, why)
	}
	if up != was {
		p.onChange(t.server, up, why)
	}
}

// judge turns a probe's result into a status. One success makes a server up; a failure
// is confirmed by a second probe at once. p.mu is held.
func (p *Prober) judge(t *target, took time.Duration, err error) {
	s := &t.status
	s.Probes++
	was := s.Up
	switch {
	case err == nil:
		t.suspect = false
		s.Up, s.Why, s.Latency = true, "answers", took
	case s.Up && !t.suspect:
		s.Failures++
		t.suspect, t.next = true, t.begun
	default:
		s.Failures++
		t.suspect = false
		s.Up, s.Why = false, err.Error()
	}
	if s.Up != was {
		s.Since = time.Now()
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
