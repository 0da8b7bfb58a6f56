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

// A standby's shorter promise is answered when the host has been able to shorten the lease, whoever else sends meanwhile.
func TestShorterPromiseWaitsForTheLease(t *testing.T) {
	a, b := newEnd(t, replication.RoleActive), newEnd(t, replication.RoleStandby)
	begin(t, 1000*ms, a, b)
	answers := func() (n int) {
		for _, frame := range a.sent {
			if h, _, err := wire.Decode(frame); err == nil && h.Type == wire.TypeHeartbeatAck {
				n++
			}
		}
		return n
	}
	promise := func(seq uint64, micros uint32) {
		step(t, a, 1000*ms, wire.AppendHeartbeat(nil, wire.Version, 1, seq, wire.Heartbeat{WaitMicros: micros, MuteMicros: micros}))
	}
	before := 0
	a.onHeard = func() {
		a.shell.Run(1000 * ms) // somebody else sends
		before = answers()
	}
	promise(1, 300_000)
	if before != 1 {
		t.Errorf("a longer promise: %d answers", before)
	}
	promise(2, 100_000)
	if before != 1 || answers() != 2 {
		t.Errorf("a shorter promise: %d answers before the lease is told, %d in the end", before, answers())
	}
}
