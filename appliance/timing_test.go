package appliance

import (
	"testing"
	"time"

	"lockstep/replication"
)

// What is late is measured against when it was due, and told from half a time-out on.
func TestTiming(t *testing.T) {
	const ms = replication.Nanos(time.Millisecond)
	var told []string
	tm := timing{heartbeat: 20 * ms}
	tm.patience.FailureTimeout, tm.patience.Longest = 100*ms, 500*ms
	tm.late = func(own bool, d time.Duration) {
		who := "peer "
		if own {
			who = "own "
		}
		told = append(told, who+d.String())
	}
	bears := func(d replication.Nanos) {
		t.Helper()
		if got := tm.patience.Effective(1000 * ms); got != d {
			t.Errorf("silence is borne for %v, want %v", time.Duration(got), time.Duration(d))
		}
	}
	tm.warn(true, tm.fired(900*ms)) // nothing was due yet
	tm.due = 1000 * ms
	tm.warn(true, tm.fired(1001*ms))
	tm.warn(false, tm.heardAfter(980*ms, 1001*ms))
	bears(100 * ms)
	tm.warn(true, tm.fired(1040*ms))
	bears(160 * ms)
	tm.warn(false, tm.heardAfter(930*ms, 1001*ms))
	bears(204 * ms)
	if len(told) != 1 || told[0] != "peer 51ms" {
		t.Errorf("told %q", told)
	}
}
