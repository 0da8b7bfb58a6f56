package relay

import (
	"sync/atomic"

	"lockstep/replication"
)

// gauge is what the outside may know of a kept connection; its worker sets it.
type gauge struct {
	log, lag         atomic.Uint64
	replicas, inStep atomic.Int32
	orphan           atomic.Bool
	unanswered       atomic.Bool
}

// Gauge sums up the kept connections of a service as they are now.
type Gauge struct {
	Connections, Replicas, InStep, Orphans int
	Unanswered                             int // connections with a request of which no byte was answered yet
	LogBytes                               uint64
	Lag                                    uint64 // bytes by which the slowest replica is behind
}

// Gauge returns that of s.
func (r *Relay) Gauge(s *Service) (g Gauge) {
	r.Each(func(c *Conn) {
		if c.svc != s || !c.opened.Load() {
			return
		}
		k := &c.gauge
		g.Connections++
		g.LogBytes += k.log.Load()
		g.Lag = max(g.Lag, k.lag.Load())
		g.Replicas += int(k.replicas.Load())
		g.InStep += int(k.inStep.Load())
		if k.orphan.Load() {
			g.Orphans++
		}
		if k.unanswered.Load() {
			g.Unanswered++
		}
	})
	return g
}

// measure sets the gauge. It comes at the end of a step, when more may just have been
// released than was compared before: a replica that holds those bytes is in step, for it
// could go on as soon as they are compared. While a transfer is busy it is hardly ever
// seen with nothing left to compare.
func (c *Conn) measure() {
	k, g := c.kept, &c.gauge
	var lag uint64
	var inStep int32
	for _, r := range k.replicas() {
		switch {
		case !r.doubt && r.leg.Established() && (r.at == k.seen.end || has(r, k.seen.end-1)):
			inStep++
		case r.at < k.seen.end:
			lag = max(lag, k.seen.end-r.at)
		}
	}
	g.log.Store(k.log.size())
	g.lag.Store(lag)
	g.replicas.Store(int32(len(k.replicas())))
	g.inStep.Store(inStep)
	g.orphan.Store(k.source == nil && !c.streams[replication.Response].finPassed)
	g.unanswered.Store(k.log.end > k.ckpt[replication.Request] && k.seen.end == k.ckpt[replication.Response])
}
