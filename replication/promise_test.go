package replication

import (
	"errors"
	"testing"

	"lockstep/replication/wire"
)

// TestPromisesInSession: until the active has answered a promise it may go by it or by any from the one before, in either direction,
// however many heartbeats are on their way; and it answers a shorter one when its lease has been told.
func TestPromisesInSession(t *testing.T) {
	const ms = millisecond
	lim := Limits{Heartbeat: 20 * ms, FailureTimeout: 100 * ms}
	a, b := New(lim), New(lim)
	for c, role := range map[*Core]Role{a: RoleActive, b: RoleStandby} {
		if err := c.SetRole(role, 1); err != nil {
			t.Fatal(err)
		}
		if err := c.PeerJoined(1, wire.Version); err != nil {
			t.Fatal(err)
		}
	}
	now := Nanos(1)
	give := func(from, to *Core) {
		t.Helper()
		for from.Flushable() {
			buf := from.Flush(nil)
			for len(buf) > 0 {
				n, err := wire.FrameLen(buf)
				if err == nil {
					err = to.Step(now, buf[:n])
				}
				if err != nil {
					t.Fatal(err)
				}
				buf = buf[n:]
			}
		}
	}
	says := func(wait, mute Nanos) {
		b.Promise(Promise{wait * ms, mute * ms})
		b.Tick(now)
		give(b, a)
		now += 20 * ms
	}
	want := func(what string, peer, least, most Promise) {
		t.Helper()
		scaled := func(p Promise) Promise { return Promise{p.Wait * ms, p.Mute * ms} }
		if got := b.Promised(); a.PeerPromise() != scaled(peer) || got != (Promised{scaled(least), scaled(most)}) {
			t.Errorf("%s: the active has %v, the standby counts %v", what, a.PeerPromise(), got)
		}
	}
	usual, long := Promise{100, 100}, Promise{300, 500}
	says(0, 0)
	give(a, b)
	want("nothing is promised", usual, usual, usual)
	says(300, 500)
	want("longer, not answered", long, usual, long)
	give(a, b)
	want("longer", long, long, long)
	b.SetPatience(0, 50*ms)
	if heard := b.Heard(); b.PeerSilent(heard+300*ms-1) || !b.PeerSilent(heard+300*ms) {
		t.Error("the standby does not keep what it has promised")
	}
	says(100, 100)
	give(a, b)
	want("shorter, the lease has not been told", usual, usual, long)
	says(100, 100)
	give(a, b)
	want("the same again", usual, usual, long)
	a.LeaseTold()
	give(a, b)
	want("shorter", usual, usual, usual)
	says(300, 500)
	for range 2 * sentRing {
		says(100, 100)
		a.LeaseTold()
	}
	want("many that are not answered", usual, usual, long)
	give(a, b)
	want("the newest is answered", usual, usual, usual)
}

// TestPromiseOfNoSense: a promise that nobody makes ends the session, and is counted.
func TestPromiseOfNoSense(t *testing.T) {
	for _, hb := range []wire.Heartbeat{{}, {MuteMicros: 100_000}, {WaitMicros: 300_000, MuteMicros: 299_999}} {
		c := New(Limits{Heartbeat: 20 * millisecond, FailureTimeout: 100 * millisecond})
		if err := errors.Join(c.SetRole(RoleActive, 1), c.PeerJoined(1, wire.Version)); err != nil {
			t.Fatal(err)
		}
		usual := c.PeerPromise()
		err := c.Step(1, wire.AppendHeartbeat(nil, wire.Version, 1, 1, hb))
		if !errors.Is(err, ErrPromise) || c.PeerPromise() != usual || c.Stats().Drops[BadFrame] != 1 {
			t.Errorf("%+v: %v, the active has %v, %d frames are counted", hb, err, c.PeerPromise(), c.Stats().Drops[BadFrame])
		}
	}
	long := wire.AppendHeartbeat(nil, wire.Version, 1, 1, wire.Heartbeat{WaitMicros: 1 << 31, MuteMicros: 1 << 31})
	_, payload, err := wire.Decode(long)
	if err != nil {
		t.Fatal(err)
	}
	if hb, err := wire.DecodeHeartbeat(wire.Version, payload); err != nil || hb.WaitMicros != 60_000_000 || hb.MuteMicros != 60_000_000 {
		t.Errorf("%+v, %v", hb, err)
	}
}
