package stack_test

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lockstep/internal/script"
	"lockstep/replication"
	"lockstep/stack"
)

// Connections come and go in every way there is, through an active appliance and
// its standby; afterwards nothing is left of them: no leg, no endpoint of
// netstack's, no connection, no record or tombstone on either side, no goroutine,
// no memory. Then the standby takes over, has nothing to continue, and does the
// same once more. LOCKSTEP_LEAK_CONNS sets how many connections (make churn: a
// million, in some minutes).
func TestNothingLeaks(t *testing.T) {
	total := 5000 // with the race detector, on a busy machine
	if testing.Short() {
		total = 2000
	}
	if s := os.Getenv("LOCKSTEP_LEAK_CONNS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("LOCKSTEP_LEAK_CONNS: %v", err)
		}
		total = n
	}
	running := goleak.IgnoreCurrent()
	f := newFlood(t, script.Options{})
	first := total / 4
	f.play(first)
	f.gone(t)
	before, goroutines := heap(), runtime.NumGoroutine()
	f.play(total - first)
	f.gone(t)
	wait(t, "goroutines to end", func() string {
		if now := runtime.NumGoroutine(); now > goroutines {
			return fmt.Sprintf("%d, %d before %d connections", now, goroutines, total-first)
		}
		return ""
	})

	// What stays is what does not depend on the number: pools, maps that keep
	// their buckets. netstack lets go of some things only when a timer fires.
	const perConn = 64 // bytes
	limit := before + uint64(total-first)*perConn + 2<<20
	wait(t, "memory to be given back", func() string {
		if now := heap(); now > limit {
			return fmt.Sprintf("%d KiB in use, %d before %d connections", now>>10, before>>10, total-first)
		}
		return ""
	})
	f.counted(t, total)
	t.Logf("%d connections: %v; heap %d KiB before the last %d, %d KiB after; drops %v",
		total, f.done, before>>10, total-first, heap()>>10, f.rig.Engine().C.Drops())

	if err := f.rig.Takeover(); err != nil {
		t.Fatal(err)
	}
	if n := f.rig.Engine().Legs(); n != 0 {
		t.Errorf("%d legs are continued, all connections had ended", n)
	}
	f.done = [numKinds]int{}
	f.play(first)
	f.gone(t)
	f.counted(t, first)
	if err := f.rig.Err(); err != nil {
		t.Error(err)
	}
	if err := f.rig.Close(); err != nil {
		t.Error(err)
	}
	if err := goleak.Find(running); err != nil {
		t.Error(err)
	}
}

// counted compares what was played with what the relay counted.
func (f *flood) counted(t *testing.T, want int) {
	t.Helper()
	var done int
	for _, n := range f.done {
		done += n
	}
	if _, finished, aborted := f.rig.Relay().Counts(); uint64(done) != finished+aborted || done != want {
		t.Errorf("%d connections played, %d finished, %d aborted", done, finished, aborted)
	}
}

// gone waits until all traces are gone, tombstones after their time.
func (f *flood) gone(t *testing.T) {
	t.Helper()
	e, j := f.rig.Engine(), f.rig.Journal()
	wait(t, "connections to end", func() string {
		e.SweepAfter(stack.TombstoneLife)
		open, _, _ := f.rig.Relay().Counts()
		st, _ := j.Standby()
		act := j.Active()
		if open+e.Legs()+e.Endpoints()+e.HalfOpen()+e.Tombstones()+st.Connections+act.Connections > 0 || e.Buffered() != 0 || st.HeldBytes+act.HeldBytes > 0 {
			return fmt.Sprintf("%d open, %d legs, %d endpoints, %d half-open, %d tombstones, %d records, %d at the active, %d bytes buffered, %d held",
				open, e.Legs(), e.Endpoints(), e.HalfOpen(), e.Tombstones(), st.Connections, act.Connections, e.Buffered(), st.HeldBytes)
		}
		return ""
	})
	j.Advance(120 * replication.Nanos(time.Second))
	wait(t, "the records' tombstones", func() string {
		st, _ := j.Standby()
		if n := st.Tombstones + j.Active().Tombstones; n > 0 {
			return fmt.Sprintf("%d left", n)
		}
		return ""
	})
}

// heap is what is in use after everything unreachable is collected.
func heap() uint64 {
	runtime.GC()
	runtime.GC() // sync.Pool keeps things for one round
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// wait polls until cond has nothing to complain of.
func wait(t *testing.T, what string, cond func() string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	end := time.Now().Add(2 * benchLimit)
	for {
		why := cond()
		if why == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %s", what, why)
		}
		<-tick.C
	}
}
