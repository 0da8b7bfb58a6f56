package kept

import (
	"testing"
	"time"
)

// A server that gets on with a request that it is told again is not given up, however long it takes. One that only gets to where
// another one has been, or stands still, is.
func TestGain(t *testing.T) {
	var g gain
	for i, x := range []struct {
		lost, now time.Duration
		got       uint64
		want      time.Duration
	}{
		{10, 11, 0, 10},
		{10, 20, 0, 10},
		{10, 30, 5, 30},
		{10, 50, 5, 30},
		{10, 60, 3, 30}, // the next one, from the beginning
		{10, 70, 5, 30},
		{10, 80, 6, 80},
		{90, 95, 4, 90}, // another source was lost
		{90, 99, 5, 99},
	} {
		g.begin(x.lost, 7)
		if got := g.since(x.now, x.got); got != x.want {
			t.Errorf("%d: since %d, want %d", i, got, x.want)
		}
	}
}
