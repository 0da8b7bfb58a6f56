package rig

import (
	"fmt"
	"strconv"
	"time"

	"lockstep/internal/clock"
)

// drifting is a clock that runs at a speed of its own from born on. Like the kernel's it goes on
// while the process is stopped.
type drifting struct {
	born  time.Time
	speed float64
}

func (c drifting) Now() time.Time {
	return c.born.Add(time.Duration(float64(time.Since(c.born)) * c.speed))
}

func (c drifting) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

// clockOf makes the clock of a process; empty: a true one.
func clockOf(speed string) (clock.Clock, error) {
	if speed == "" {
		return clock.System{}, nil
	}
	s, err := strconv.ParseFloat(speed, 64)
	if err != nil || !(s > 0) {
		return nil, fmt.Errorf("speed %q of the clock is not a number above 0", speed)
	}
	return drifting{born: time.Now(), speed: s}, nil
}
