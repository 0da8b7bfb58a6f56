package appliance

import (
	"strings"
	"testing"
	"time"

	"lockstep/tun"
)

// A path that worked and does not any more is a fault; one that never did, a stall, or
// a loss here and there is none.
func TestLoopJudge(t *testing.T) {
	j := loopJudge{family: "IPv4"}
	step := func(back bool, brought queueing) bool {
		j.sent++
		seen := j.seen
		if back {
			seen = j.sent
		}
		j.judge(seen, brought, false)
		return j.fault() != nil
	}
	for range 10 {
		if step(false, allRead) {
			t.Fatal("a fault before it has ever worked")
		}
	}
	step(true, allRead)
	for i := range 10 {
		if step(i%3 == 2, allRead) {
			t.Fatal("a fault though packets come back")
		}
	}
	step(true, allRead)
	for range 10 {
		if step(false, notAll) {
			t.Fatal("a fault though it may wait to be read")
		}
	}
	for i := range loopMissing {
		if got := step(false, allRead); got != (i == loopMissing-1) {
			t.Fatalf("%d missing: fault %v", i+1, got)
		}
	}
	if step(true, allRead) {
		t.Fatal("still a fault")
	}
	for i := range loopMissing {
		if got := step(false, noneAtAll); got != (i == loopMissing-1) {
			t.Fatalf("%d missing and nobody reads: fault %v", i+1, got)
		}
	}
	if why := j.fault()[0]; !strings.Contains(why, "this process") {
		t.Errorf("blames somebody else: %s", why)
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
		j.judge(seen, allRead, clock.late(now))
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

// What the kernel has brought and a slow reader has not read, or what found no room, is not missing. A queue that was empty
// since, or out of which more was read than it holds, has nothing of what was sent before; and one that nobody reads is told
// though it overflows.
func TestLoopView(t *testing.T) {
	const length = 1000
	is := func(readers ...tun.Look) *loopView { return &loopView{dropped: 7, length: length, readers: readers} }
	waits, reads := tun.Look{Turns: 4, Done: 50}, tun.Look{Turns: 5, Done: 50, Waiting: true}
	for _, c := range []struct {
		what      string
		sent, now *loopView
		want      queueing
	}{
		{"nothing ever came", is(tun.Look{}), is(tun.Look{}), allRead},
		{"all is quiet", is(waits, waits), is(waits, waits), allRead},
		{"it came and was dealt with", is(waits), is(tun.Look{Turns: 6, Done: 51}), allRead},
		{"in the reader's hands", is(waits), is(tun.Look{Turns: 5, Done: 50}), noneAtAll},
		{"a slow reader", is(reads), is(tun.Look{Turns: 5, Done: 51, Waiting: true}), notAll},
		{"a slow reader with the last of them", is(reads), is(tun.Look{Turns: 5, Done: 99}), notAll},
		{"the reader of one of two queues", is(waits, reads), is(waits, tun.Look{Turns: 5, Done: 80, Waiting: true}), notAll},
		{"empty for a moment, perhaps before", is(reads), is(tun.Look{Turns: 7, Done: 80, Waiting: true}), notAll},
		{"empty for a moment", is(reads), is(tun.Look{Turns: 9, Done: 80, Waiting: true}), allRead},
		{"empty for a moment, from rest", is(waits), is(tun.Look{Turns: 7, Done: 80, Waiting: true}), allRead},
		{"a queue full read", is(reads), is(tun.Look{Turns: 5, Done: 50 + length + 1, Waiting: true}), allRead},
		{"almost", is(reads), is(tun.Look{Turns: 5, Done: 50 + length, Waiting: true}), notAll},
		{"no room", is(waits), &loopView{dropped: 8, length: length, readers: []tun.Look{waits}}, notAll},
		{"nobody reads, no room", is(reads), &loopView{dropped: 8, length: length, readers: []tun.Look{reads}}, noneAtAll},
		{"nobody reads one of two", is(waits, reads), &loopView{dropped: 8, length: length, readers: []tun.Look{waits, reads}}, noneAtAll},
	} {
		if got := c.now.since(c.sent); got != c.want {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
}
