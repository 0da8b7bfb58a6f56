// Package clock is the clock by which leases and promises are kept: the one that the voters, the
// sync session and the engine of a process read, all the same one, because a lease that one of
// them computes is checked by another.
//
// It owns what such a clock has to be able to do, and the kernel's. It exists so that a test can
// run whole processes whose clocks are slow or fast; nothing of the configuration reaches it.
package clock

import "time"

// Clock is a monotonic clock, which goes on while the process is stopped.
type Clock interface {
	// Now carries a monotonic reading of this clock. It is comparable with others of the
	// same clock only.
	Now() time.Time
	// Since is Now().Sub(t), for a t of this clock's.
	Since(t time.Time) time.Duration
}

// System is the kernel's clock.
type System struct{}

func (System) Now() time.Time                  { return time.Now() }
func (System) Since(t time.Time) time.Duration { return time.Since(t) } // cheaper than Now: once per packet
