package voter

import (
	"testing"
	"time"

	"lockstep/replication"
)

const ms = replication.Nanos(time.Millisecond)

func TestPace(t *testing.T) {
	p := newPace(0, 100*ms)
	look := func(now replication.Nanos, waiting, tick bool) {
		t.Helper()
		if got := p.woke(now, true, waiting); got != tick {
			t.Fatalf("at %v: tick %v, want %v", time.Duration(now), got, tick)
		}
		want := now + 10*ms
		if !tick {
			want = now + ms
		}
		if next := p.next(now, now+10*ms); next != want {
			t.Fatalf("at %v: the next look is at %v, want %v", time.Duration(now), time.Duration(next), time.Duration(want))
		}
	}
	look(0, false, true)
	look(10*ms, true, true) // messages that wait are no stall
	look(29*ms, false, true)
	look(500*ms, false, false) // stopped for long: four looks on time first
	look(501*ms, false, false)
	look(502*ms, false, false)
	look(503*ms, true, false) // messages keep coming: again four
	look(504*ms, false, false)
	look(505*ms, false, false)
	look(506*ms, false, false)
	look(507*ms, false, true)
	look(517*ms, false, true)
	// Never on time: the core is told all the same, after a while.
	look(600*ms, false, false)
	look(620*ms, false, false)
	look(626*ms, false, true)
	// A message wakes us first: the stall must not pass unseen.
	p.woke(800*ms, false, true)
	if next := p.next(800*ms, 800*ms); next != 801*ms {
		t.Fatalf("the next look is at %v", time.Duration(next))
	}
	look(801*ms, false, false)
	look(802*ms, false, false)
	look(803*ms, false, false)
	look(804*ms, false, true)
	// A slow disk: what the core wants done at once has to wait.
	p.woke(810*ms, false, false)
	if next := p.next(850*ms, 850*ms); next != 851*ms {
		t.Fatalf("after a slow write the next look is at %v", time.Duration(next))
	}
	if p.stalls != 4 {
		t.Errorf("%d stalls, want 4", p.stalls)
	}
}
