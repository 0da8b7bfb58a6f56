package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"lockstep/internal/lab"
)

// Kinds of load.
const (
	loadDown = "down"
	loadUp   = "up"
	loadKept = "kept" // request and response in turn, on one connection each
	loadNew  = "new"  // the same with a new connection for each request
)

// load is what a client does until it is stopped.
type load struct {
	Kind        string `json:"kind"`
	Connections int    `json:"connections"`    // at the same time
	Addr        string `json:"addr,omitempty"` // empty: that of loadArgs
}

// loadArgs of loadRole.
type loadArgs struct {
	Addr string `json:"addr"`
}

const (
	dialTimeout = 10 * time.Second
	// Latencies are recorded from a microsecond to a minute in three digits.
	minLatency, maxLatency = int64(time.Microsecond), int64(time.Minute)
)

// runLoad is the client: one load at a time. It answers every order with a mark; doStart when all
// connections have done something, or one of them has failed.
func runLoad(ctx context.Context, r *lab.RoleIO) error {
	var args loadArgs
	if err := json.Unmarshal(r.Args, &args); err != nil {
		return fmt.Errorf("decode arguments: %w", err)
	}
	begin := time.Now()
	var l *loader
	defer func() {
		if l != nil {
			l.stop()
		}
	}()
	for {
		var m json.RawMessage
		select {
		case <-ctx.Done():
			return nil
		case m = <-r.Messages:
		}
		var o order
		if err := json.Unmarshal(m, &o); err != nil {
			if ctx.Err() != nil || m == nil {
				return nil
			}
			return fmt.Errorf("order %s: %w", m, err)
		}
		switch {
		case o.Do == doStart && l == nil:
			l = newLoader(ctx, begin, cmp.Or(o.Load.Addr, args.Addr), o.Load)
			l.awaitFirst()
		case o.Do == doMark && l != nil:
		case o.Do == doStop && l != nil:
			l.stop()
		default:
			return fmt.Errorf("order %q out of turn", o.Do)
		}
		if err := r.Emit(l.mark()); err != nil {
			return err
		}
		if o.Do == doStop {
			l = nil
		}
	}
}

// loader is a load under way.
type loader struct {
	load  load
	addr  string
	begin time.Time
	ctx   context.Context
	end   context.CancelFunc
	wg    sync.WaitGroup
	first chan struct{} // one for each worker that did something, or failed

	received, rounds, open atomic.Int64
	workers                []worker

	mu     sync.Mutex // guards the following
	failed int
	err    string
	hist   *hdrhistogram.Histogram
}

// worker is one connection, or a succession of them.
type worker struct {
	did  atomic.Int64 // bytes or rounds, to see whether it is stuck
	seen int64        // of did, at the last mark
	once sync.Once
	_    [40]byte // keeps neighbours off one cache line
}

func newLoader(ctx context.Context, begin time.Time, addr string, what load) *loader {
	l := &loader{load: what, addr: addr, begin: begin, first: make(chan struct{}, what.Connections),
		workers: make([]worker, what.Connections), hist: hdrhistogram.New(minLatency, maxLatency, 3)}
	l.ctx, l.end = context.WithCancel(ctx)
	for i := range l.workers {
		w := &l.workers[i]
		l.wg.Go(func() { l.work(w) })
	}
	return l
}

func (l *loader) awaitFirst() {
	limit := time.NewTimer(dialTimeout)
	defer limit.Stop()
	for range l.workers {
		select {
		case <-l.first:
		case <-limit.C:
			l.fail(fmt.Errorf("no progress within %v of the start", dialTimeout))
			return
		case <-l.ctx.Done():
			return
		}
	}
}

func (l *loader) stop() {
	l.end()
	l.wg.Wait()
}

func (l *loader) mark() mark {
	m := mark{At: int64(time.Since(l.begin)), Received: l.received.Load(), Rounds: l.rounds.Load(), Open: l.open.Load()}
	for i := range l.workers {
		w := &l.workers[i]
		did := w.did.Load()
		if did == w.seen {
			m.Stalled++
		}
		w.seen = did
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	m.Failed, m.Error = l.failed, l.err
	l.failed = 0
	if n := l.hist.TotalCount(); n > 0 {
		m.Latency = &latency{Count: n, P50: l.hist.ValueAtPercentile(50), P99: l.hist.ValueAtPercentile(99)}
		l.hist.Reset()
	}
	return m
}

// fail counts a connection that ended before it was told to.
func (l *loader) fail(err error) {
	if l.ctx.Err() != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed++; l.err == "" {
		l.err = err.Error()
	}
}

func (l *loader) progress(w *worker, n int64) {
	w.did.Add(n)
	w.once.Do(func() { l.first <- struct{}{} })
}

func (l *loader) record(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.hist.RecordValue(min(max(int64(d), minLatency), maxLatency)) // in range, so it cannot fail
}

func (l *loader) work(w *worker) {
	defer w.once.Do(func() { l.first <- struct{}{} })
	if l.load.Kind != loadNew {
		if err := l.connection(func(c net.Conn) error { return l.transfer(w, c) }); err != nil {
			l.fail(err)
		}
		return
	}
	request, response := newRequest()
	for l.ctx.Err() == nil {
		begin := time.Now()
		err := l.connection(func(c net.Conn) error {
			if err := round(c, request, response); err != nil {
				return err
			}
			l.record(time.Since(begin))
			return nil
		})
		if err != nil {
			l.fail(err)
			w.once.Do(func() { l.first <- struct{}{} })
			select { // a gateway that refuses must not be hammered
			case <-l.ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
			continue
		}
		l.rounds.Add(1)
		l.progress(w, 1)
	}
}

// connection dials, runs f and closes; the end of the load closes too.
func (l *loader) connection(f func(net.Conn) error) error {
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(l.ctx, "tcp", l.addr)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	l.open.Add(1)
	defer l.open.Add(-1)
	defer conn.Close()
	defer context.AfterFunc(l.ctx, func() { conn.Close() })()
	return f(conn)
}

// transfer is a connection that lasts.
func (l *loader) transfer(w *worker, conn net.Conn) error {
	switch l.load.Kind {
	case loadDown:
		if _, err := conn.Write([]byte{wantDown}); err != nil {
			return err
		}
		for b := make([]byte, bulkChunk); ; {
			n, err := conn.Read(b)
			l.received.Add(int64(n))
			l.progress(w, int64(n))
			if err != nil {
				return err
			}
		}
	case loadUp:
		b := make([]byte, bulkChunk)
		b[0] = wantUp
		for {
			n, err := conn.Write(b)
			l.progress(w, int64(n))
			if err != nil {
				return err
			}
		}
	case loadKept:
		request, response := newRequest()
		for {
			begin := time.Now()
			if err := round(conn, request, response); err != nil {
				return err
			}
			l.record(time.Since(begin))
			l.rounds.Add(1)
			l.progress(w, 1)
		}
	default:
		return fmt.Errorf("unknown load %q", l.load.Kind)
	}
}

func newRequest() (request, response []byte) {
	request = make([]byte, requestSize)
	request[0] = wantRound
	return request, make([]byte, responseSize)
}

func round(conn net.Conn, request, response []byte) error {
	if _, err := conn.Write(request); err != nil {
		return fmt.Errorf("send request: %w", err)
	}
	if _, err := io.ReadFull(conn, response); err != nil {
		return fmt.Errorf("receive response: %w", err)
	}
	return nil
}
