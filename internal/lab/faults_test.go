package lab

import (
	"encoding/binary"
	"slices"
	"sync"
	"testing"
	"time"
)

// collect returns a conduit and a function that waits until n frames have come out and gives
// their numbers in order.
func collect(t *testing.T, seed uint64, f Faults) (*conduit, func(n int) []int) {
	t.Helper()
	var mu sync.Mutex
	var got []int
	more := make(chan struct{}, 1)
	c := newConduit(seed, f, func(frame []byte) {
		mu.Lock()
		got = append(got, int(binary.BigEndian.Uint32(frame)))
		mu.Unlock()
		select {
		case more <- struct{}{}:
		default:
		}
	})
	t.Cleanup(c.close)
	return c, func(n int) []int {
		t.Helper()
		deadline := time.After(20 * time.Second)
		for {
			mu.Lock()
			now := slices.Clone(got)
			mu.Unlock()
			if len(now) >= n {
				return now
			}
			select {
			case <-more:
			case <-deadline:
				t.Fatalf("%d of %d frames came out", len(now), n)
			}
		}
	}
}

func feed(c *conduit, n int) {
	frame := make([]byte, 64) // reused: a conduit must copy what it keeps
	for i := range n {
		binary.BigEndian.PutUint32(frame, uint32(i))
		c.put(frame)
	}
}

func TestConduitDecidesBySeed(t *testing.T) {
	const frames = 1000
	f := Faults{Loss: 0.1, Duplicate: 0.1}
	run := func(seed uint64) []int {
		c, wait := collect(t, seed, f)
		feed(c, frames)
		return wait(int(c.counters().Passed))
	}
	first := run(7)
	if !slices.Equal(first, run(7)) {
		t.Error("the same seed decided differently")
	}
	if slices.Equal(first, run(8)) {
		t.Error("another seed decided alike")
	}
	if !slices.IsSorted(first) {
		t.Error("order changed without Reorder")
	}
}

func TestConduitKeepsOrderUnderJitter(t *testing.T) {
	c, wait := collect(t, 1, Faults{Delay: time.Millisecond, Jitter: 5 * time.Millisecond})
	feed(c, 500)
	if got := wait(500); !slices.IsSorted(got) || len(got) != 500 {
		t.Errorf("%d frames, sorted %v", len(got), slices.IsSorted(got))
	}
	// From delayed to undelayed at run time: what waits still goes first.
	feed(c, 100)
	c.set(Faults{})
	feed(c, 100)
	got := wait(700)[500:]
	if !slices.IsSorted(got[:100]) || !slices.IsSorted(got[100:]) {
		t.Error("order changed when the delay was taken away")
	}
}

func TestConduitReorders(t *testing.T) {
	c, wait := collect(t, 1, Faults{Reorder: 0.1, ReorderBy: 2 * time.Millisecond})
	feed(c, 500)
	got := wait(500)
	if slices.IsSorted(got) {
		t.Error("nothing was reordered")
	}
	slices.Sort(got)
	if got = slices.Compact(got); len(got) != 500 {
		t.Errorf("%d different frames", len(got))
	}
	if n := c.counters().Reordered; n == 0 || n > 150 {
		t.Errorf("%d of 500 reordered at 10%%", n)
	}
}

func TestConduitIsBounded(t *testing.T) {
	c, _ := collect(t, 1, Faults{Delay: time.Minute, Queue: 10})
	feed(c, 25)
	if n := c.counters(); n.Overflowed != 15 {
		t.Errorf("%+v", n)
	}
}

func TestConduitFilters(t *testing.T) {
	c, wait := collect(t, 1, Faults{})
	c.setFilter(func(frame []byte) bool { return frame[3]%2 == 0 })
	feed(c, 10)
	if got := wait(5); !slices.Equal(got, []int{0, 2, 4, 6, 8}) || c.counters().Filtered != 5 {
		t.Errorf("%v, %+v", got, c.counters())
	}
}

func TestConduitThrottles(t *testing.T) {
	// 64-byte frames at 5.12 Mbit/s leave 100 microseconds apart; the spacing is what was
	// planned, not what a busy machine makes of it.
	c, _ := collect(t, 1, Faults{Rate: 5_120_000, Delay: 0})
	feed(c, 50)
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := 1; i < len(c.queue); i++ {
		if parent := (i - 1) / 2; c.queue[i].at.Sub(c.queue[parent].at) < 99*time.Microsecond {
			t.Fatalf("frames planned %v apart", c.queue[i].at.Sub(c.queue[parent].at))
		}
	}
}

func TestFaultsAreChecked(t *testing.T) {
	for _, f := range []Faults{
		{Loss: -0.1}, {Duplicate: 1.1}, {Reorder: 2}, {Delay: -1}, {Jitter: time.Hour},
		{Rate: -1}, {Queue: -1}, {Queue: maxQueue + 1},
	} {
		if f.check() == nil {
			t.Errorf("%+v accepted", f)
		}
	}
}
