package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"
)

// Limits of one lab, so that a runaway test is told so instead of exhausting the machine.
const (
	maxHosts    = 64
	maxNetworks = 32
	maxProcs    = 1024
)

// Options of a lab. The zero value is usable.
type Options struct {
	// Log receives what the lab does (debug) and what it cannot undo (warn). nil: discarded.
	Log *slog.Logger
	// Seed of every random decision of the lab's switches. 0 is a seed like any other.
	Seed uint64
	// LogDir, when set, gets one file per started process that names no LogFile of its own.
	LogDir string
}

// Lab is a set of hosts and networks. Its methods may be called from several goroutines.
type Lab struct {
	opts   Options
	log    *slog.Logger
	id     string // marks the environment of every child process (EnvID)
	ctx    context.Context
	cancel context.CancelFunc
	unhook func() bool // detaches Close from the caller's context

	mu       sync.Mutex
	hosts    map[string]*Host
	networks map[string]*Network
	procs    []*Proc
	links    int // links ever made, for unique MAC addresses
	closed   bool

	closeOnce sync.Once
	closeErr  error
	done      chan struct{} // closed when Close has finished
}

// EnvID is the environment variable that carries the lab's ID in every process it starts.
const EnvID = "LSLAB_ID"

// New makes an empty lab. It is closed when ctx ends, or by Close.
func New(ctx context.Context, opts Options) (*Lab, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.LogDir != "" {
		if err := os.MkdirAll(opts.LogDir, 0o755); err != nil {
			return nil, fmt.Errorf("create log directory: %w", err)
		}
	}
	l := &Lab{
		opts:     opts,
		log:      opts.Log,
		id:       strconv.Itoa(os.Getpid()) + "-" + strconv.FormatInt(time.Now().UnixNano(), 36),
		hosts:    make(map[string]*Host),
		networks: make(map[string]*Network),
		done:     make(chan struct{}),
	}
	l.ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
	l.unhook = context.AfterFunc(ctx, func() { _ = l.Close() })
	return l, nil
}

// ID is the value of EnvID in the lab's processes.
func (l *Lab) ID() string { return l.id }

// Host returns the named host, creating it if needed. Names are used as host names and parts of
// interface names: up to 9 letters, digits and hyphens.
func (l *Lab) Host(name string) (*Host, error) {
	if err := checkName(name); err != nil {
		return nil, fmt.Errorf("host %q: %w", name, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("host %q: lab: %w", name, os.ErrClosed)
	}
	if h, ok := l.hosts[name]; ok {
		return h, nil
	}
	if len(l.hosts) >= maxHosts {
		return nil, fmt.Errorf("host %q: limit of %d hosts reached", name, maxHosts)
	}
	s, err := newSpace(name)
	if err != nil {
		return nil, err
	}
	h := &Host{lab: l, name: name, space: s, ports: make(map[string]*Port)}
	if err := h.defaults(); err != nil {
		s.close()
		return nil, err
	}
	l.hosts[name] = h
	return h, nil
}

// Network returns the named network, creating it with opts if needed.
func (l *Lab) Network(name string, opts NetOptions) (*Network, error) {
	if err := checkName(name); err != nil {
		return nil, fmt.Errorf("network %q: %w", name, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("network %q: lab: %w", name, os.ErrClosed)
	}
	if n, ok := l.networks[name]; ok {
		return n, nil
	}
	if len(l.networks) >= maxNetworks {
		return nil, fmt.Errorf("network %q: limit of %d networks reached", name, maxNetworks)
	}
	n, err := newNetwork(l, name, opts)
	if err != nil {
		return nil, err
	}
	l.networks[name] = n
	return n, nil
}

// Close kills every process, stops the switches and ends the namespaces. It may be called more
// than once; every call returns after everything has ended.
func (l *Lab) Close() error {
	l.closeOnce.Do(func() {
		defer close(l.done)
		l.unhook()
		l.mu.Lock()
		l.closed = true
		procs, hosts, networks := l.procs, l.hosts, l.networks
		l.mu.Unlock()

		l.cancel()
		var errs []error
		for _, p := range procs {
			_ = p.Kill() // one that ended already is what we want
		}
		for _, p := range procs {
			<-p.Done()
		}
		for _, n := range networks {
			errs = append(errs, n.close())
		}
		for _, h := range hosts {
			h.space.close()
		}
		l.closeErr = errors.Join(errs...)
	})
	<-l.done
	return l.closeErr
}

// add registers a started process for Close.
func (l *Lab) add(p *Proc) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("lab: %w", os.ErrClosed)
	}
	// Forget the ones that ended, so that a long bench does not collect them.
	if len(l.procs) >= maxProcs/2 {
		running := l.procs[:0:0]
		for _, q := range l.procs {
			select {
			case <-q.Done():
			default:
				running = append(running, q)
			}
		}
		l.procs = running
	}
	if len(l.procs) >= maxProcs {
		return fmt.Errorf("limit of %d processes reached", maxProcs)
	}
	l.procs = append(l.procs, p)
	return nil
}

func checkName(name string) error {
	if len(name) == 0 || len(name) > 9 {
		return errors.New("name must have 1 to 9 characters")
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' {
			return errors.New("name must consist of a-z, 0-9 and -")
		}
	}
	return nil
}
