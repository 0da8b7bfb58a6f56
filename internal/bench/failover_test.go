package bench

import (
	"testing"
	"time"

	"lockstep/internal/lab/traffic"
)

func TestSpanning(t *testing.T) {
	kill := time.Unix(1000, 0)
	at := func(begin, length time.Duration) traffic.Gap {
		return traffic.Gap{At: kill.Add(begin), Longest: length}
	}
	ms := time.Millisecond
	results := []traffic.Result{
		{Down: at(-500*ms, 400*ms), Up: at(-10*ms, 30*ms)}, // over before the kill; over it
		{Down: at(3*ms, 35*ms)},                            // before anybody knew
		{Up: at(60*ms, 900*ms)},                            // later, for reasons of its own
		{},                                                 // lost before its first byte
	}
	if got := spanning(results, kill, kill.Add(5*ms)); got != 35*ms {
		t.Errorf("%v", got)
	}
}

func TestBusyMix(t *testing.T) {
	var up, down, both, all int
	for _, b := range busy(100, time.Second) {
		r := b.Request
		all += b.Count
		switch {
		case r.Up.Size > 0 && r.Down.Size > 0:
			both += b.Count
		case r.Up.Size > 0:
			up += b.Count
		case r.Down.Size > 0:
			down += b.Count
		}
		if s := max(r.Up.Size, r.Down.Size); s != busyChunk*100 {
			t.Errorf("%d bytes in a second", s)
		}
	}
	if all != 100 || up != 33 || down != 33 || both != 34 {
		t.Errorf("%d up, %d down, %d both of %d", up, down, both, all)
	}
}
