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
	step(t, a, heard+71*ms, wire.AppendHeartbeat(nil, wire.Version, 1, 1, wire.Heartbeat{WaitMicros: 100_000, MuteMicros: 100_000}))
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

// An active bears silence for as long as its standby has promised to: a standby that stands still for less finds its session there.
// It does not wait for so long that it would take itself for one that has stood still.
func TestActiveBearsWhatTheStandbyDoes(t *testing.T) {
	c := roles.AloneConfig{Heartbeat: 20 * ms, FailureTimeout: 100 * ms, StartEmptyAfter: 10000 * ms}
	for _, promise := range []replication.Nanos{100 * ms, 500 * ms} {
		a, b := newEnd(t, replication.RoleActive), newEnd(t, replication.RoleStandby)
		a.shell.SetPatience(roles.Patience{FailureTimeout: 100 * ms, Longest: c.LongestPatience()}, &c, 20*ms)
		begin(t, 1000*ms, a, b)
		a.shell.TookOver(1000 * ms)
		micros := uint32(promise / 1000)
		step(t, a, 1000*ms, wire.AppendHeartbeat(nil, wire.Version, 1, 1, wire.Heartbeat{WaitMicros: micros, MuteMicros: micros}))
		lease := a.core.HeardUs() + replication.LeaseTime(promise)
		now := 1000 * ms
		for !a.shell.Tick(now, 0).Silent && now < 3000*ms {
			now += 2 * ms
		}
		if now < lease || now < 1000*ms+min(promise, c.LongestPatience()) || now >= lease+250*ms {
			t.Errorf("promised %d ms: the active takes its standby for silent at +%d ms, its lease lasts to +%d ms", promise/ms, (now-1000*ms)/ms, (lease-1000*ms)/ms)
		}
	}
}
