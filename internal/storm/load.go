package storm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
)

const (
	patience      = time.Minute      // a connection without progress for so long is given up, and lost
	lastWord      = 30 * time.Second // for the connections to come to their end when the storm is over
	toldWithin    = 10 * time.Second // both ends of a lost connection must know by then
	pauseBetween  = 50 * time.Millisecond
	lookEvery     = 100 * time.Millisecond
	stillLooks    = int(5 * time.Second / lookEvery)
	maxSeenErrors = 200 // bytes of an error in a report
)

// shape of a connection.
type shape struct {
	name   string
	weight int
	kept   bool // a server that is told the request again comes to the same point without waiting
	draw   func(rng *rand.Rand) traffic.Request
}

// shapes are what the connections do. None is without progress for longer than two seconds by
// itself.
func shapes() []shape {
	return []shape{
		{"download", 3, false, func(rng *rand.Rand) traffic.Request {
			return traffic.Request{Mode: traffic.Stream, Down: paced(rng)}
		}},
		{"upload", 3, true, func(rng *rand.Rand) traffic.Request {
			return traffic.Request{Mode: traffic.Stream, Up: paced(rng)}
		}},
		{"both ways", 2, false, func(rng *rand.Rand) traffic.Request {
			return traffic.Request{Mode: traffic.Stream, Up: paced(rng), Down: paced(rng)}
		}},
		{"bulk", 1, true, func(rng *rand.Rand) traffic.Request {
			return pick(rng, traffic.Upload, traffic.Download)(1 << (20 + rng.IntN(4)))
		}},
		{"rounds", 4, true, func(rng *rand.Rand) traffic.Request {
			r := traffic.PingPong(20+rng.IntN(180), 1+rng.IntN(3000), 1+rng.IntN(6000))
			r.Interval = time.Duration(20+rng.IntN(200)) * time.Millisecond
			return r
		}},
		{"idle", 3, true, func(rng *rand.Rand) traffic.Request {
			r := traffic.PingPong(5+rng.IntN(20), 1, 1)
			r.Interval = time.Duration(300+rng.IntN(500)) * time.Millisecond
			return r
		}},
		{"slow reader", 2, true, func(rng *rand.Rand) traffic.Request {
			f := traffic.Flow{Size: 1 << (20 + rng.IntN(3)), StallAfter: 1 << 16, StallFor: time.Duration(300+rng.IntN(1500)) * time.Millisecond}
			if rng.IntN(2) == 0 {
				return traffic.Request{Mode: traffic.Stream, Up: f}
			}
			return traffic.Request{Mode: traffic.Stream, Down: f}
		}},
		{"half-closed", 2, false, func(rng *rand.Rand) traffic.Request {
			return traffic.Request{Mode: traffic.Stream, Up: paced(rng), Down: paced(rng), Close: pick(rng, traffic.ClientFirst, traffic.ServerFirst)}
		}},
		{"short", 4, true, func(rng *rand.Rand) traffic.Request { return traffic.PingPong(1, 1+rng.IntN(500), 1+rng.IntN(8000)) }},
	}
}

// paced is a flow of one to twelve seconds.
func paced(rng *rand.Rand) traffic.Flow {
	f := traffic.Flow{Chunk: 1 << (9 + rng.IntN(6)), Pace: time.Duration(10+rng.IntN(70)) * time.Millisecond}
	f.Size = int64(f.Chunk) * int64(time.Duration(1000+rng.IntN(11000))*time.Millisecond/f.Pace)
	return f
}

// flight is one connection.
type flight struct {
	id     uint64
	shape  string
	vip    string
	port   int
	began  time.Time
	client *traffic.Client
	conn   atomic.Pointer[net.Conn] // the client's end, once there is one

	// The rest belongs to load.mu.
	sum        int64 // of what has moved
	confirmed  int64 // what acked has told at last
	movedAt    time.Time
	still      int  // looks without progress outside faults, and since a process was starved
	looks      int  // the same, starved or not
	allowed    int  // looks, see patience; 0: not known yet
	waited     bool // existed when the last fault ended, and has not moved since
	stalled    *finding
	writtenOff bool // the pair was started anew: whatever becomes of it
}

func (f *flight) String() string {
	local := "(connecting)"
	if c := f.conn.Load(); c != nil {
		local = (*c).LocalAddr().String()
	}
	return fmt.Sprintf("%s of %s from %s to %s", f.shape, f.began.Format("15:04:05.000"), local, net.JoinHostPort(f.vip, fmt.Sprint(f.port)))
}

// progress is a number that changes with each step.
func (f *flight) progress() int64 {
	p := &f.client.Progress
	return p.Sent.Load() + p.Received.Load() + p.Rounds.Load() + p.Open.Load()
}

// load keeps connections running.
type load struct {
	storm  *storm
	server *traffic.Server
	wg     sync.WaitGroup
	finish chan struct{} // closed: begin no more

	mu      sync.Mutex
	flights map[*flight]struct{}
	fault   bool // one is in progress
	anew    int  // how often the present connections were written off
	count   loadCount
}

// loadCount is what became of the connections.
type loadCount struct {
	Connections int   `json:"connections"`
	Bytes       int64 `json:"bytes"` // verified where they arrived
	Lost        int   `json:"lost"`
	Stated      int   `json:"lost_as_stated"`
	WrittenOff  int   `json:"written_off"` // the pair was started anew after a finding
	Wrong       int   `json:"wrong_bytes"` // connections with
	Real        int   `json:"real_downloads"`
}

func newLoad(s *storm) (*load, error) {
	l := &load{storm: s, flights: make(map[*flight]struct{}), finish: make(chan struct{}), server: traffic.NewServer(2*patience, nil)}
	for _, port := range []int{clientPort, gatewayPort} {
		for _, v6 := range []bool{false, true} {
			ln, err := s.pair.Servers[0].Listen("tcp", s.pair.ServerAddr(0, v6, uint16(port)).String())
			if err != nil {
				l.server.Close()
				return nil, fmt.Errorf("start the server: %w", err)
			}
			l.wg.Go(func() { _ = l.server.Serve(ln) }) // ends with the server
		}
	}
	return l, nil
}

// run keeps so many connections running until finish or ctx ends.
func (l *load) run(ctx context.Context, wg *sync.WaitGroup) {
	for i := range l.storm.opts.connections {
		rng := rand.New(rand.NewPCG(l.storm.opts.seed, 100+uint64(i)))
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-l.finish:
					return
				case <-time.After(pauseBetween):
				}
				l.one(ctx, rng)
			}
		})
	}
}

// one connection from its beginning to its end.
func (l *load) one(ctx context.Context, rng *rand.Rand) {
	req, f := l.draw(rng)
	f.client = &traffic.Client{Patience: patience, Dial: func(ctx context.Context) (net.Conn, error) { return l.dial(ctx, f) }}
	l.mu.Lock()
	f.began, f.movedAt = time.Now(), time.Now()
	l.flights[f] = struct{}{}
	l.mu.Unlock()
	r := f.client.Do(ctx, req)
	l.landed(ctx, f, r)
}

// dial connects. That nobody answers for an address, which a kernel finds out after three seconds,
// is no end: it is a standstill until somebody does.
func (l *load) dial(ctx context.Context, f *flight) (net.Conn, error) {
	for {
		c, err := l.storm.pair.Client.DialContext(ctx, "tcp", net.JoinHostPort(f.vip, fmt.Sprint(f.port)))
		if errors.Is(err, unix.EHOSTUNREACH) && lab.Pause(ctx, pauseBetween) == nil {
			continue
		}
		if err == nil {
			f.conn.CompareAndSwap(nil, &c) // a later one asks the server what it has seen
		}
		return c, err
	}
}

func (l *load) draw(rng *rand.Rand) (traffic.Request, *flight) {
	list, ports := shapes(), []int{clientPort, gatewayPort}
	if l.storm.opts.servers {
		ports = append(ports, mortalPort, logPort, hotPort)
	}
	port := pick(rng, ports...)
	if mayDie(port) {
		list = slices.DeleteFunc(list, func(s shape) bool { return !s.kept })
	}
	total := 0
	for _, s := range list {
		total += s.weight
	}
	n := rng.IntN(total)
	chosen := list[0]
	for _, s := range list {
		if n -= s.weight; n < 0 {
			chosen = s
			break
		}
	}
	f := &flight{shape: chosen.name, vip: lab.VIP4, port: port, id: rng.Uint64() | 1}
	if v6 := rng.IntN(2) == 0; (v6 || l.storm.opts.only6) && !l.storm.opts.only4 {
		f.vip = lab.VIP6
	}
	req := chosen.draw(rng)
	req.ID, req.Repeatable = f.id, kept(port)
	return req, f
}

// landed judges a connection that has ended.
func (l *load) landed(ctx context.Context, f *flight, r traffic.Result) {
	l.mu.Lock()
	delete(l.flights, f)
	written, stalled := f.writtenOff, f.stalled
	l.mu.Unlock()
	if stalled != nil {
		l.storm.then(stalled, fmt.Sprintf("after %v it ended: %s", time.Since(f.movedAt).Round(time.Millisecond), outcome(r)))
	}
	if ctx.Err() != nil && !r.Intact {
		return // the storm is over
	}
	l.mu.Lock()
	l.count.Connections++
	l.count.Bytes += r.Received
	if r.Intact {
		l.count.Bytes += r.Sent
	}
	l.mu.Unlock()
	if r.Intact {
		return
	}
	wrong := r.Corrupt || l.server.Report(f.id).Corrupt
	what := finding{Kind: findLost, Detail: f.String() + ": " + clip(r.Error)}
	switch stated := l.storm.stated(f.port); {
	case wrong:
		l.note(&l.count.Wrong)
		what.Kind = findWrong
	case written:
		l.note(&l.count.WrittenOff)
		return
	case stated != "":
		l.note(&l.count.Stated)
		what.Kind = ""
	default:
		l.note(&l.count.Lost)
	}
	if stalled != nil && !wrong {
		return // it has been found already
	}
	if what.Kind != "" {
		l.storm.find(what)
	}
	l.told(ctx, f, r)
}

func (l *load) note(n *int) {
	l.mu.Lock()
	*n++
	l.mu.Unlock()
}

func outcome(r traffic.Result) string {
	if r.Intact {
		return "intact"
	}
	return clip(r.Error)
}

func clip(s string) string {
	if len(s) > maxSeenErrors {
		return s[:maxSeenErrors] + "..."
	}
	return s
}

// told demands that both ends of a lost connection know of it.
func (l *load) told(ctx context.Context, f *flight, r traffic.Result) {
	if strings.Contains(r.Error, "no progress for") {
		l.storm.find(finding{Kind: findUntold, Detail: fmt.Sprintf("the client of the lost %s was not told within %v", f, patience)})
		return
	}
	if mayDie(f.port) {
		return // its server is dead, or another process
	}
	select {
	case <-ctx.Done():
	case <-time.After(toldWithin):
		if l.server.Working(f.id) != nil {
			l.storm.find(finding{Kind: findUntold, Detail: fmt.Sprintf("the server of the lost %s was not told within %v", f, toldWithin)})
		}
	}
}

// close ends the server.
func (l *load) close() {
	l.server.Close()
	l.wg.Wait()
}
