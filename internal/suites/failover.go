package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"lockstep/internal/lab"
	"lockstep/internal/pair"
)

const (
	pollEvery = 25 * time.Millisecond
	dumpWait  = 300 * time.Millisecond
)

// runner has what one suite needs: networks, the pair, the server's host.
type runner struct {
	suite     suite
	opts      options
	dir       string
	pair      *lab.PairLab
	nodes     *pair.Pair
	version   string
	daemon    *lab.Proc // of a suite whose server is started anew
	failovers int
}

// newRunner builds everything and starts the suite's server and the pair.
func newRunner(ctx context.Context, s suite, o options) (r *runner, err error) {
	r = &runner{suite: s, opts: o}
	if r.dir, err = os.MkdirTemp("", "lockstep-suites-"); err != nil {
		return nil, err
	}
	if err := os.Chmod(r.dir, 0o755); err != nil { // servers that give up root read in it
		return nil, err
	}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if r.pair, err = lab.Pair(ctx, lab.PairOptions{Options: lab.Options{LogDir: filepath.Join(r.dir, "logs")}, Witness: true, Servers: 2}); err != nil {
		return r, err
	}
	c := pair.Config("suites", pair.Service("suite", []string{fmt.Sprintf("%s:%d", lab.VIP4, s.port)}, []string{fmt.Sprintf("10.20.0.11:%d", s.port)}))
	c.Pair.Heartbeat, c.Pair.FailureTimeout = 50*time.Millisecond, time.Second
	if r.nodes, err = pair.New(r.pair, c, pair.Options{Dir: r.dir, Self: o.self}); err != nil {
		return r, err
	}
	dir, err := r.subdir("server")
	if err == nil {
		err = s.prepare(ctx, r, dir)
	}
	if err == nil {
		err = r.nodes.Start(ctx)
	}
	return r, err
}

func (r *runner) server() *lab.Host { return r.pair.Servers[0] }

// subdir of the run, for anybody to write into.
func (r *runner) subdir(name string) (string, error) {
	dir := filepath.Join(r.dir, name)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o777)
}

func (r *runner) close() {
	if r.nodes != nil {
		for _, n := range []*pair.Node{r.nodes.A, r.nodes.B} {
			if n != nil && n.Process() != nil {
				_ = n.Process().Signal(syscall.SIGUSR1) // which connections are left, into the log
			}
		}
		time.Sleep(dumpWait)
		r.nodes.End()
	}
	if r.pair != nil {
		_ = r.pair.Close()
	}
	if r.opts.keep != "" {
		to := filepath.Join(r.opts.keep, r.suite.name)
		if os.MkdirAll(r.opts.keep, 0o755) == nil && os.RemoveAll(to) == nil && os.CopyFS(to, os.DirFS(r.dir)) == nil {
			say("%s: outputs are in %s", r.suite.name, to)
		}
	}
	_ = os.RemoveAll(r.dir)
}

// underFailovers plays while the active is killed again and again, and started again.
func (r *runner) underFailovers(ctx context.Context, play func(context.Context) (results, error)) (results, error) {
	playing, stop := context.WithCancel(ctx)
	defer stop()
	broken := make(chan error, 1)
	go func() { broken <- r.breakAndMend(playing) }()
	got, err := play(ctx)
	stop()
	return got, errors.Join(err, <-broken)
}

func (r *runner) breakAndMend(ctx context.Context) error {
	for lab.Pause(ctx, r.opts.every) == nil {
		if err := r.nodes.AwaitInSync(ctx, pair.SyncWithin); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		victim := r.nodes.Active
		if err := victim.Kill(); err != nil {
			return err
		}
		r.failovers++
		if err := victim.Start(context.WithoutCancel(ctx)); err != nil {
			return err
		}
	}
	return nil
}

// program runs one to its end on a host; its output goes to a file in dir and is returned. An exit
// status other than 0 is no error: what the tests say counts.
func program(ctx context.Context, h *lab.Host, dir, name string, c lab.Command) (string, error) {
	c.Name, c.LogFile = name, filepath.Join(dir, name+".log")
	p, err := h.Start(c)
	if err != nil {
		return "", err
	}
	if err := p.Wait(ctx); ctx.Err() != nil {
		_ = p.Kill()
		return "", err
	}
	b, err := os.ReadFile(c.LogFile)
	if err != nil {
		return "", fmt.Errorf("output of %s: %w", name, err)
	}
	return string(b), nil
}
