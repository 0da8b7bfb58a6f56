package shell

import (
	"testing"

	"lockstep/replication"
	"lockstep/replication/roles"
	"lockstep/replication/wire"
)

const ms = replication.Nanos(1_000_000)

// What is late is measured against when it was due, this process's timers and the peer's
// heartbeats, and silence is borne for as long as that asks for.
func TestTiming(t *testing.T) {
	a, b := newEnd(t, replication.RoleActive), newEnd(t, replication.RoleStandby)
	a.shell.SetPatience(roles.Patience{FailureTimeout: 100 * ms, Longest: 500 * ms}, nil, 20*ms)
	begin(t, 1000*ms, a, b)
	tick := func(after, late, bear replication.Nanos) {
		t.Helper()
		now := a.shell.Due() + after
		if g := a.shell.Tick(now, 0); g.Late != late || g.Bear != bear || g.Silent {
			t.Errorf("at %d: %+v, want %d late, borne for %d", now, g, late, bear)
		}
	}
	tick(0, 0, 100*ms)
	tick(1*ms, 1*ms, 100*ms)
	tick(40*ms, 40*ms, 160*ms)
	now := a.shell.Due()
	heard := a.core.Heard()
	step(t, a, heard+71*ms, wire.AppendHeartbeat(nil, wire.Version, 1, 1, wire.Heartbeat{}))
	if len(a.news) != 1 || a.news[0].Late != 51*ms {
		t.Errorf("%+v", a.news)
	}
	tick(max(now, heard+71*ms)-now, 0, 204*ms)
}
