package clock

import (
	"sync/atomic"
	"time"
)

// Drifting is a clock with a speed of its own: 0.99 is one per cent too slow. Like the kernel's it
// goes on while the process is stopped.
type Drifting struct {
	born  time.Time
	speed float64
	ahead atomic.Int64 // nanoseconds that it has been put forward by
}

// NewDrifting makes a clock that is right now.
func NewDrifting(speed float64) *Drifting { return &Drifting{born: time.Now(), speed: speed} }

// Now implements Clock.
func (c *Drifting) Now() time.Time {
	return c.born.Add(time.Duration(float64(time.Since(c.born))*c.speed) + time.Duration(c.ahead.Load()))
}

// Since implements Clock.
func (c *Drifting) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

// Step puts the clock forward. A monotonic clock never goes back: a negative step is none.
func (c *Drifting) Step(by time.Duration) { c.ahead.Add(int64(max(by, 0))) }
