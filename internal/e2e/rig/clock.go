package rig

import (
	"fmt"
	"strconv"

	"lockstep/internal/clock"
)

// clockOf makes the clock of a process; empty: a true one.
func clockOf(speed string) (clock.Clock, error) {
	if speed == "" {
		return clock.System{}, nil
	}
	s, err := strconv.ParseFloat(speed, 64)
	if err != nil || !(s > 0) {
		return nil, fmt.Errorf("speed %q of the clock is not a number above 0", speed)
	}
	return clock.NewDrifting(s), nil
}
