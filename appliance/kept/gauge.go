package kept

import (
	"math/bits"
	"sync/atomic"

	"lockstep/replication"
)

// gauge is what the outside may know of a connection; its worker sets it.
type gauge struct {
	log, lag         atomic.Uint64
	replicas, inStep atomic.Int32
	orphan           atomic.Bool
	unanswered       atomic.Bool
	beside           atomic.Uint64 // servers that run beside the source, by bit
}

// Gauge sums up a service's connections as they are now.
type Gauge struct {
	Connections, Replicas, InStep, Orphans int
	Unanswered                             int // connections with a request of which no byte was answered yet
	LogBytes                               uint64
	Lag                                    uint64 // bytes by which the slowest replica is behind
	beside                                 [64]int
}

// BesideOf is how many connections a server, by the pool's number, runs beside the source.
func (g *Gauge) BesideOf(server int) int {
	if server >= len(g.beside) {
		return 0
	}
	return g.beside[server]
}

// AddTo adds the connection. It may be called from any goroutine.
func (k *Kept) AddTo(g *Gauge) {
	g.Connections++
	g.LogBytes += k.gauge.log.Load()
	g.Lag = max(g.Lag, k.gauge.lag.Load())
	g.Replicas += int(k.gauge.replicas.Load())
	g.InStep += int(k.gauge.inStep.Load())
	if k.gauge.orphan.Load() {
		g.Orphans++
	}
	for b := k.gauge.beside.Load(); b != 0; b &= b - 1 {
		g.beside[bits.TrailingZeros64(b)]++
	}
	if k.gauge.unanswered.Load() {
		g.Unanswered++
	}
}

// Draining reports whether one end has gone, and what it has sent is still delivered. It
// may be called from any goroutine.
func (k *Kept) Draining() bool { return k.drain.On.Load() }

// measure sets the gauge. It comes at the end of a step, when more may just have been
// released than was compared before: a replica that holds those bytes is in step, for it
// could go on as soon as they are compared. While a transfer is busy it is hardly ever
// seen with nothing left to compare.
func (k *Kept) measure() {
	g := &k.gauge
	var lag uint64
	var inStep int32
	var beside uint64
	for _, r := range k.replicas() {
		if r != k.source {
			beside |= 1 << uint(r.server)
		}
		switch {
		case !r.doubt && (r.leg.Established() || r.leg.Parked()) && (r.at == k.seen.end || has(r, k.seen.end-1)):
			inStep++
		case r.at < k.seen.end:
			lag = max(lag, k.seen.end-r.at)
		}
	}
	g.log.Store(k.log.size())
	g.lag.Store(lag)
	g.replicas.Store(int32(len(k.replicas())))
	g.inStep.Store(inStep)
	g.beside.Store(beside)
	g.orphan.Store(k.source == nil && !k.streams[replication.Response].FinPassed)
	g.unanswered.Store(k.log.end > k.ckpt[replication.Request] && k.seen.end == k.ckpt[replication.Response])
}
