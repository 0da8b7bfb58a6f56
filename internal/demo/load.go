package demo

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
	"lockstep/internal/realservers"
)

const (
	serverTimeout   = 20 * time.Second
	reportEvery     = 10 * time.Millisecond // of the servers' progress, well below a sample
	openTimeout     = 30 * time.Second      // for all idle connections together
	defaultPatience = 30 * time.Second      // a connection without progress for so long is lost
)

// load is the traffic of the demo: the transfers that are watched, and connections that merely
// exist. The client's connections are goroutines of this process on sockets inside the client's
// namespace; each server is a process of its own, so that neither runs out of descriptors. The
// TCP at both ends is the kernel's.
type load struct {
	patience time.Duration
	kept     bool // all servers are told the same, so what arrives there is counted once
	servers  []*server
	fetch    *fetch         // a real client program; nil: the demo's own clients
	reading  sync.WaitGroup // of the servers' events

	bulk     traffic.Client
	idle     traffic.Client
	finish   chan struct{}
	idleDone chan []traffic.Result
	bulkDone chan []traffic.Result
}

// server is one of the servers: its process can be started again.
type server struct {
	host    *lab.Host
	real    *realservers.Server // nil: the demo's own
	arrived atomic.Int64        // bytes, the most that one of its processes has reported

	mu   sync.Mutex
	proc process // the newest
}

// process of a server, the demo's own (lab.RoleProc) or a real one with all it has forked
// (realservers.Daemon).
type process interface {
	PID() int
	Kill() error
	Stop() error
	Cont() error
	Done() <-chan struct{}
}

func (s *server) name() string { return s.host.Name() }

func (s *server) process() process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc
}

// newLoad starts the servers.
func newLoad(ctx context.Context, p *lab.PairLab, opts options, dir string) (*load, error) {
	patience := cmp.Or(opts.patience, defaultPatience)
	l := &load{
		patience: patience,
		kept:     opts.kept(),
		finish:   make(chan struct{}),
		idleDone: make(chan []traffic.Result, 1),
		bulkDone: make(chan []traffic.Result, 1),
	}
	for _, h := range p.Servers {
		l.servers = append(l.servers, &server{host: h})
	}
	if kind := opts.real(); kind != nil {
		if err := l.makeReal(p.Client, kind, opts, dir); err != nil {
			return nil, err
		}
	}
	for _, s := range l.servers {
		if err := l.startServer(ctx, s); err != nil {
			l.close()
			return nil, err
		}
	}
	via := func(vips ...string) func(ctx context.Context) (net.Conn, error) {
		var next atomic.Uint64
		return func(ctx context.Context) (net.Conn, error) {
			vip := vips[int(next.Add(1)-1)%len(vips)]
			return p.Client.DialContext(ctx, "tcp", net.JoinHostPort(vip, fmt.Sprint(servicePort)))
		}
	}
	l.bulk.Dial, l.bulk.Patience = via(lab.VIP4), patience
	l.idle.Dial, l.idle.Patience = via(lab.VIP4, lab.VIP6), patience
	l.idle.Finish = l.finish
	return l, nil
}

// startServer gives a server a new process, and returns when that listens. Only one goroutine at a
// time may call it, and none after close.
func (l *load) startServer(ctx context.Context, s *server) error {
	ctx, cancel := context.WithTimeout(ctx, serverTimeout)
	defer cancel()
	if s.real != nil {
		d, err := s.real.Start(ctx, s.host, "")
		if err != nil {
			return fmt.Errorf("server %q: %w", s.name(), err)
		}
		s.mu.Lock()
		s.proc = d
		s.mu.Unlock()
		return nil
	}
	r, err := s.host.Go(traffic.ServerRole, traffic.ServerArgs{
		Listen: []string{fmt.Sprintf(":%d", servicePort)}, Patience: l.patience, Every: reportEvery, HTTP: l.kept,
	})
	if err != nil {
		return fmt.Errorf("server %q: %w", s.name(), err)
	}
	s.mu.Lock()
	s.proc = r
	s.mu.Unlock()
	var ready traffic.ServerEvent
	if err := r.Next(ctx, &ready); err != nil {
		return fmt.Errorf("server %q: %w", s.name(), err)
	}
	l.reading.Go(func() {
		for {
			var e traffic.ServerEvent
			if r.Next(context.Background(), &e) != nil {
				return // the server has ended
			}
			if e.Received > s.arrived.Load() {
				s.arrived.Store(e.Received)
			}
		}
	})
	return nil
}

// startIdle opens the idle connections and returns when all are established through the pair.
func (l *load) startIdle(ctx context.Context, n int) error {
	opened := make(chan struct{}, n)
	l.idle.OnOpen = func(uint64) { opened <- struct{}{} }
	go func() { l.idleDone <- l.idle.Run(ctx, traffic.Times(n, traffic.Idle(0))...) }()
	within := max(openTimeout, l.patience)
	limit := time.NewTimer(within)
	defer limit.Stop()
	for i := range n {
		select {
		case <-opened:
		case results := <-l.idleDone:
			l.idleDone <- results
			return fmt.Errorf("open %d idle connections: all failed: %v", n, traffic.Summarize(results...).Errors)
		case <-limit.C:
			return fmt.Errorf("open %d idle connections: only %d within %v", n, i, within)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// startBulk begins the transfers.
func (l *load) startBulk(ctx context.Context, opts options) {
	if l.fetch != nil {
		go func() { l.bulkDone <- []traffic.Result{l.fetch.run(ctx)} }()
		return
	}
	var reqs []traffic.Request
	if opts.direction != dirUpload {
		reqs = append(reqs, traffic.Download(opts.size))
	}
	if opts.direction != dirDownload {
		reqs = append(reqs, traffic.Upload(opts.size))
	}
	for i := range reqs {
		for _, f := range []*traffic.Flow{&reqs[i].Down, &reqs[i].Up} {
			f.Chunk, f.Pace = opts.chunk, opts.pace
		}
		reqs[i].Repeatable = opts.kept() // another server must be able to go on
	}
	go func() { l.bulkDone <- l.bulk.Run(ctx, reqs...) }()
}

// down and up are bytes that have arrived, at the client and at the servers.
func (l *load) down() int64 {
	if l.fetch != nil {
		return l.fetch.arrived.Load()
	}
	return l.bulk.Progress.Received.Load()
}

func (l *load) up() (n int64) {
	for _, s := range l.servers {
		if l.kept {
			n = max(n, s.arrived.Load())
		} else {
			n += s.arrived.Load()
		}
	}
	return n
}

// close ends the servers; clients end with their context.
func (l *load) close() {
	for _, s := range l.servers {
		if r := s.process(); r != nil {
			_ = r.Kill() // one that has ended is what we want
			<-r.Done()
		}
	}
	l.reading.Wait()
}
