package relay

import (
	"sync/atomic"
	"time"

	"lockstep/stack"
)

// A connection that is ended here and with which nothing is going on gives its endpoints back: most of
// what it costs (stack/park.go). Its next segment, from either end, has them built again. The legs of a
// connection are parked, and unparked, together. After a takeover what was idle is parked from the
// beginning.

// parking is whether a connection is parked.
type parking struct {
	parked   atomic.Bool
	toPark   atomic.Uint32 // it is to be, if it is idle
	lookedAt time.Duration // when that was, the janitor's
}

// Values of parking.toPark.
const (
	parkNot  uint32 = iota
	parkIdle        // if it has been idle for as long as the service says
	parkNow         // if it is idle
)

// Parked reports whether the connection is.
func (c *Conn) Parked() bool { return c.alive.parked.Load() }

// Parked counts those of the service's connections that are parked.
func (s *Service) Parked() int { return int(s.parked.Load()) }

// idles has the worker park the connection if it seems to be idle. It is the janitor's.
func (c *Conn) idles(now time.Duration) {
	after := c.svc.Now().Park
	// One that was passed on, and is ended here because its client did not read, is not parked.
	if after == 0 || c.passed != nil || c.alive.parked.Load() || !c.begun.Load() || now-max(time.Duration(c.flags.Moved.Load()), c.alive.lookedAt, c.born) < after {
		return
	}
	c.alive.lookedAt = now
	c.alive.toPark.Store(parkIdle)
	c.bulk.Store(true) // who is busy goes first, but see soon
	c.r.sched.add(c, true)
}

// ParkIdle parks what is idle now, however short a time. Parking reports whether that is still being done. Both are for
// tests: a service parks by itself.
func (r *Relay) ParkIdle() {
	r.Each(func(c *Conn) {
		if c.passed == nil && c.begun.Load() {
			c.alive.toPark.Store(parkNow)
			c.r.sched.add(c, false)
		}
	})
}

// Parking: see ParkIdle.
func (r *Relay) Parking() (yes bool) {
	r.Each(func(c *Conn) { yes = yes || c.alive.toPark.Load() != parkNot })
	return yes
}

// park parks the connection if it is to be, and is idle. It comes last in a worker's turn.
func (c *Conn) park(again bool) {
	to := c.alive.toPark.Load()
	if to == parkNot || again || c.phase != phaseOpen || c.unproven || c.alive.parked.Load() || c.rebuild.Load() != nil || c.carrier.Draining() {
		return
	}
	rest := c.svc.Now().Park
	if to == parkNow {
		rest = 0
	}
	if c.carrier.Park(rest) {
		c.noteParked(true)
	}
}

// noteParked counts it.
func (c *Conn) noteParked(is bool) {
	switch {
	case c.alive.parked.Swap(is) == is:
	case is:
		c.svc.parked.Add(1)
	default:
		c.svc.parked.Add(-1)
	}
}

// stayParked has a connection that is parked after a takeover looked at in its turn: it needs no endpoints
// for itself, but its server may be down.
func (r *Relay) stayParked(c *Conn) bool {
	if !c.alive.parked.Load() {
		return false
	}
	c.bulk.Store(true)
	r.sched.add(c, true)
	return true
}

// Park implements carrier.
func (p *plain) Park(rest time.Duration) bool {
	for i := range p.streams {
		s := &p.streams[i]
		if s.FinPassed || s.stashLen > 0 || s.Base != s.Next || s.Delivered.Load() != s.Next || s.NeedTo.Load() != 0 {
			return false
		}
	}
	req, resp := p.streams[0].Next, p.streams[1].Next
	if !p.c.client.Rests(req, resp, rest) || !p.server.Park(resp, req, rest) {
		return false
	}
	if !p.c.client.Park(req, resp, rest) {
		stack.Unpark(p.server)
		p.c.r.sched.add(p.c, false)
		return false
	}
	p.parked = true
	return true
}

// Parked implements carrier.
func (p *plain) Parked() bool { return p.parked }

// unpark has both legs wait for endpoints if something came for one.
func (p *plain) unpark() {
	if !stack.Parked(p.c.client, p.server) {
		p.parked = false
		stack.Unpark(p.c.client, p.server)
	}
}
