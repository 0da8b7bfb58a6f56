package stack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"

	"lockstep/internal/clock"
)

// netClock is the engine's clock, and netstack's, so that a TSval, a round trip and the lease are
// all of the same time. Timers sleep as the kernel has them sleep: whoever decides by the time
// reads the clock when one fires. It is read for every segment: by pointer, nothing is copied.
type netClock struct {
	tcpip.Clock // Now, which nothing here depends on, and the timers
	read        clock.Clock
	born        time.Time // a reading of read
}

func newNetClock(read clock.Clock) netClock {
	return netClock{Clock: tcpip.NewStdClock(), read: read, born: read.Now()}
}

func (c *netClock) sinceBorn() time.Duration { return c.read.Since(c.born) }

func (c *netClock) NowMonotonic() tcpip.MonotonicTime {
	return tcpip.MonotonicTime{}.Add(c.sinceBorn())
}
