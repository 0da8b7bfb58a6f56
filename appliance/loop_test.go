package appliance

import "testing"

// A path that worked and does not any more is a fault; one that never did, a stall, or
// a loss here and there is none.
func TestLoopJudge(t *testing.T) {
	j := loopJudge{family: "IPv4"}
	step := func(back, busy bool) bool {
		j.sent++
		seen := j.seen
		if back {
			seen = j.sent
		}
		j.judge(seen, busy)
		return j.fault() != nil
	}
	for range 10 {
		if step(false, false) {
			t.Fatal("a fault before it has ever worked")
		}
	}
	step(true, false)
	for i := range 10 {
		if step(i%3 == 2, false) {
			t.Fatal("a fault though packets come back")
		}
	}
	step(true, false)
	for range 10 {
		if step(false, true) {
			t.Fatal("a fault though packets come in plenty")
		}
	}
	for i := range loopMissing {
		if got := step(false, false); got != (i == loopMissing-1) {
			t.Fatalf("%d missing: fault %v", i+1, got)
		}
	}
	if step(true, false) {
		t.Fatal("still a fault")
	}
}
