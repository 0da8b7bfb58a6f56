package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
	"lockstep/internal/pair"
)

const sampleEvery = 100 * time.Millisecond

// show is a demo under way.
type show struct {
	opts   options
	view   *view
	pair   *lab.PairLab
	load   *load
	nodes  *pair.Pair
	vms    *machines  // nil: the appliances are processes
	first  *appliance // active at the start
	second *appliance

	// Written by the goroutine that does the damage; read after it ended.
	fault    string // of the round under way
	failures []failure
	trouble  error // why there were no more
	unasked  int   // takeovers between rounds

	serving atomic.Pointer[string] // names of the servers that clients get their bytes from
}

// run plays the demo from start to end. Whatever it returns, everything it made is gone.
func run(ctx context.Context, opts options, v *view) (out verdict, err error) {
	out.Fault, out.Direction, out.Rounds = opts.fault, opts.direction, opts.rounds
	out.Protection, out.Release, out.Service = opts.protects(), opts.release, opts.service
	if err := checkTUN(); err != nil {
		return out, err
	}
	dir, err := os.MkdirTemp("", "lockstep-demo-")
	if err != nil {
		return out, fmt.Errorf("create temporary directory: %w", err)
	}
	if opts.service != "" { // who gives up root must reach its files; the keys have a directory of their own
		if err := os.Chmod(dir, 0o711); err != nil {
			return out, errors.Join(fmt.Errorf("open the temporary directory to the servers: %w", err), os.Remove(dir))
		}
	}
	defer func() {
		if e := os.RemoveAll(dir); e != nil && err == nil {
			err = fmt.Errorf("remove temporary directory: %w", e)
		}
	}()
	if opts.keepLogs != "" {
		if err := os.MkdirAll(opts.keepLogs, 0o755); err != nil {
			return out, fmt.Errorf("--keep-logs: %w", err)
		}
		if opts.keepLogs, err = filepath.Abs(opts.keepLogs); err != nil {
			return out, fmt.Errorf("--keep-logs: %w", err)
		}
	}
	s := &show{opts: opts, view: v}
	network := lab.NetOptions{}
	if opts.vm != "" {
		if s.vms, err = newMachines(ctx, opts, dir, v); err != nil {
			return out, err
		}
		s.vms.pace(&s.opts)
		network.Offload = true // a virtual NIC carries whole superpackets
	}
	// The lab outlives ctx: the appliances get the chance to end in order.
	l, err := lab.Pair(context.WithoutCancel(ctx), lab.PairOptions{
		Servers: opts.servers(), Witness: opts.witness, Front: network, Back: network, Sync: network, Options: lab.Options{LogDir: opts.keepLogs},
	})
	if err != nil {
		return out, err
	}
	defer func() {
		if e := l.Close(); e != nil && err == nil {
			err = fmt.Errorf("close the lab: %w", e)
		}
	}()
	s.pair = l
	defer s.end()
	if err := s.bringUp(ctx, dir); err != nil {
		return out, err
	}
	return out, s.play(ctx, &out)
}

// checkTUN finds out early what would otherwise be an appliance's dying words.
func checkTUN() error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	switch {
	case err == nil:
		return f.Close()
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("the appliances need the TUN device: %w (hint: run as root, or: chmod 666 /dev/net/tun)", err)
	default:
		return fmt.Errorf("the appliances need the TUN device: %w (hint: modprobe tun)", err)
	}
}

// bringUp starts servers and appliances and waits until the pair protects connections.
func (s *show) bringUp(ctx context.Context, dir string) (err error) {
	third := ""
	if s.opts.witness {
		third = "; witness " + lab.Witness4
	}
	var servers []string
	for i := range s.pair.Servers {
		servers = append(servers, s.pair.ServerAddr(i, false, 0).Addr().String())
	}
	s.view.say("client %s and %s -- {appliance a, appliance b} -- servers %s%s", lab.Client4, lab.Client6, strings.Join(servers, ", "), third)
	if err := s.makePair(ctx, dir); err != nil {
		return err
	}
	if s.opts.service != "" {
		s.view.say("%s", s.opts.serviceStory())
	}
	if s.load, err = newLoad(ctx, s.pair, s.opts, dir); err != nil {
		return err
	}
	if err := s.startPair(ctx); err != nil {
		return err
	}
	if s.opts.service != "" || s.opts.kept() { // else the client might not get s1, which is to be killed
		_, err := waitFor(ctx, syncTimeout, "every server is healthy", func([]control.Status) bool { return s.first.serversHealthy() }, s.first)
		if err != nil {
			return err
		}
	}
	s.view.say("appliance %s (process %d) is active, %s (process %d) is its standby and in sync",
		s.first.Name, s.first.Process().PID(), s.second.Name, s.second.Process().PID())
	return nil
}

// play runs the traffic and the fault, and judges.
func (s *show) play(ctx context.Context, out *verdict) error {
	defer s.load.close()
	traffics, stop := context.WithCancel(ctx)
	defer stop()
	out.ActiveBefore = s.first.Name
	idleRunning := false
	defer func() {
		stop()
		if idleRunning {
			<-s.load.idleDone
		}
	}()
	if s.opts.idle > 0 {
		idleRunning = true
		if err := s.load.startIdle(traffics, s.opts.idle); err != nil {
			return fmt.Errorf("%w%s", err, pair.Situation(s.first.Node, s.second.Node))
		}
		s.view.say("%d idle connections are open, over IPv4 and IPv6", s.opts.idle)
	}
	if s.opts.kept() || s.opts.ofServer() {
		s.introduceServers(out)
	}
	if s.load.fetch != nil {
		s.load.fetch.say = s.view.say
	}
	begin := time.Now()
	s.load.startBulk(traffics, s.opts)
	transfers := s.watch(traffics)
	out.DurationMS = milliseconds(time.Since(begin))
	if err := ctx.Err(); err != nil {
		return err
	}
	s.view.say("the transfers have ended")
	var idle []traffic.Result
	if s.opts.idle > 0 {
		s.view.say("every idle connection must answer once more")
		close(s.load.finish)
		idleRunning = false
		idle = <-s.load.idleDone
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.opts.ofServer() {
		s.concludeServers(ctx, out)
	} else {
		s.conclude(ctx, out)
	}
	if s.opts.kept() {
		s.count(out)
	}
	if s.trouble != nil {
		out.Reasons = append(out.Reasons, s.trouble.Error())
	}
	out.Unasked = s.unasked
	if f := s.load.fetch; f != nil && f.attempts.Load() > 0 {
		out.Client, out.ClientStatus, out.Resumed = f.program, f.status, int(f.attempts.Load())-1
	}
	out.judge(transfers, idle, s.failures)
	return nil
}

// watch shows the timeline until the transfers have ended, with the faults in it.
func (s *show) watch(ctx context.Context) []traffic.Result {
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() { s.first.watch(ctx) })
	wg.Go(func() { s.second.watch(ctx) })
	switch {
	case s.opts.ofServer():
		wg.Go(func() { s.breakServers(ctx) })
	case s.opts.fault != faultNone:
		wg.Go(func() { s.breakAndMend(ctx) })
	}
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	begin := time.Now()
	last, down, up := begin, s.load.down(), s.load.up()
	for {
		select {
		case results := <-s.load.bulkDone:
			return results
		case now := <-tick.C:
			d, u := s.load.down(), s.load.up()
			s.view.sample(sample{
				at: now.Sub(begin), active: s.activeName(), server: s.servingName(),
				down: rate(d-down, now.Sub(last)), up: rate(u-up, now.Sub(last)),
			})
			last, down, up = now, d, u
		}
	}
}

// rate in bits per second.
func rate(bytes int64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(bytes) * 8 / d.Seconds()
}

// activeName is who is active as far as the appliances say; empty: nobody.
func (s *show) activeName() string {
	for _, a := range []*appliance{s.second, s.first} { // the one that took over counts first
		if a.active() {
			return a.Name
		}
	}
	return ""
}

// conclude asks who is active now. After a fault only the other appliance's word counts: the one
// that failed is dead, or cut off and free to believe what it likes.
func (s *show) conclude(ctx context.Context, out *verdict) {
	who, last := s.first, (*failure)(nil)
	if n := len(s.failures); n > 0 {
		last = &s.failures[n-1]
		who = last.heir
	}
	isActive := func(st []control.Status) bool { return st[0].Role == control.RoleActive }
	st, err := waitFor(ctx, afterTimeout, fmt.Sprintf("appliance %s is active", who.Name), isActive, who)
	if err != nil {
		out.Reasons = append(out.Reasons, err.Error())
		return
	}
	out.ActiveAfter = who.Name
	if last != nil {
		if last.Active == "" { // the transfers ended before it was seen
			s.tookOver(last)
		}
		last.learn(st[0])
		out.TakeoverMicros, out.TakeoverLegs = last.TakeoverMicros, last.TakeoverLegs
	}
}

// end lets the nodes remove what they made, which in their namespaces is only politeness; the lab
// kills what is left.
func (s *show) end() {
	if s.load != nil {
		s.load.close()
	}
	if s.nodes != nil {
		s.nodes.End()
	}
}
