package appliance

import (
	"maps"
	"testing"
	"time"
)

// For each network that is back the kernel is made to ask at once and a few times more, each
// network in its own time, and later on only for whom it has waited for a while.
func TestComeback(t *testing.T) {
	var c comeback
	type asks map[string]time.Duration
	began, ms := time.Now(), time.Millisecond
	for _, x := range []struct {
		at    time.Duration
		back  string // a network that is back then
		asks  asks
		again time.Duration // 0: nothing more to do
	}{
		{0, "front", asks{"front": 0}, 200 * ms},
		{50 * ms, "back", asks{"back": 0}, 200 * ms},
		{200 * ms, "", asks{"front": 150 * ms}, 250 * ms},
		{210 * ms, "", asks{}, 250 * ms},
		{260 * ms, "", asks{"back": 150 * ms}, 600 * ms},
		{700 * ms, "", asks{"front": 300 * ms, "back": 300 * ms}, 0},
		{800 * ms, "", asks{}, 0},
		{900 * ms, "front", asks{"front": 0}, 1100 * ms}, // again
	} {
		now := began.Add(x.at)
		if x.back != "" {
			c.begins(x.back, now)
		}
		ask, again := c.next(now)
		want := began.Add(x.again)
		if x.again == 0 {
			want = time.Time{}
		}
		if !maps.Equal(ask, x.asks) || !again.Equal(want) {
			t.Errorf("after %v: %v, again after %v; want %v, %v", x.at, ask, again.Sub(began), x.asks, x.again)
		}
	}
	for i, step := range askNeighbours {
		if i > 0 && step.waited >= step.after-askNeighbours[i-1].after {
			t.Errorf("step %d: who is asked for since the one before has not waited long enough", i)
		}
	}
}
