package appliance

import (
	"testing"
	"time"
)

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
		j.judge(seen, busy, false)
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

// A process that was without a CPU looks late, and what it has not read is not missing: neither then nor at the
// next look, which has a whole period of its own. A path that is blocked is noticed all the same.
func TestLoopAfterPausesOfOurOwn(t *testing.T) {
	j, clock := loopJudge{family: "IPv4"}, loopClock{}
	now, due := time.Duration(0), time.Duration(0)
	send := func() {
		j.sent++
		due = now + clock.sent(now)
	}
	look := func(pause time.Duration, back bool) bool {
		now = due + pause
		seen := j.seen
		if back {
			seen = j.sent
		}
		j.judge(seen, false, clock.late(now))
		return j.fault() != nil
	}
	send()
	look(0, true)
	for i := range 4 * loopMissing {
		send()
		if due-now != loopPeriod {
			t.Fatalf("a look %v after sending", due-now)
		}
		if look(5*time.Second, false) {
			t.Fatalf("a fault after %d pauses", i+1)
		}
	}
	for i := range loopMissing {
		send()
		if got := look(loopLate/2, false); got != (i == loopMissing-1) {
			t.Fatalf("%d missing: fault %v", i+1, got)
		}
		if send(); i < loopMissing-1 && look(5*time.Second, false) {
			t.Fatal("a late look counts")
		}
	}
	send()
	if look(5*time.Second, true) {
		t.Fatal("what has come back counts late, too")
	}
}
