package shell

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"lockstep/replication"
)

// What Ready wants is done in its order, all of it.
func TestOrder(t *testing.T) {
	e := newEnd(t, replication.RoleActive)
	ids := func(n replication.ConnID) []replication.ConnID { return []replication.ConnID{n, n + 1} }
	carryOut(&replication.Ready{
		Unprotected: ids(1), Unlogged: ids(3), Opened: ids(5), Legs: ids(7), Held: []replication.Held{{Life: 9}, {Life: 10}},
		Permits: []replication.Permit{{ID: 11}, {ID: 12}}, Need: []replication.Range{{ID: 13}, {ID: 14}}, Adopt: ids(15),
	}, e)
	var want []string
	for i, kind := range []string{"unprotect", "unlogged", "opened", "leg", "decided", "permit", "need", "adopt"} {
		want = append(want, fmt.Sprint(kind, " ", 2*i+1), fmt.Sprint(kind, " ", 2*i+2))
	}
	if !slices.Equal(e.effects, want) {
		t.Errorf("%q", e.effects)
	}
}

// A standby that is lost and one that joins, before anything of it was carried out: the
// gates open for the old one, and close in answer to the question for the new one.
func TestLostAndJoined(t *testing.T) {
	a, b := newEnd(t, replication.RoleActive), newEnd(t, replication.RoleStandby)
	begin(t, 0, a, b)
	if err := a.shell.Open(0, record(1, false)); err != nil {
		t.Fatal(err)
	}
	exchange(t, 0, a, b)
	a.effects = nil
	a.shell.Look((*replication.Core).PeerLost) // as an active that must not speak yet
	b = newEnd(t, replication.RoleStandby)
	begin(t, 0, a, b)
	if want := []string{"unprotect 1", "adopt 1"}; !slices.Equal(a.effects, want) {
		t.Errorf("%q, want %q", a.effects, want)
	}
}

// Whoever waits for something hears of it without another input: a connection that begins
// without a standby, a leg of one that is not protected, a connection given up.
func TestNothingWaitsForTheNextInput(t *testing.T) {
	a, b := newEnd(t, replication.RoleActive), newEnd(t, replication.RoleStandby)
	if err := a.shell.Open(0, record(1, true)); err != nil {
		t.Fatal(err)
	}
	if want := []string{"unprotect 1", "opened 1"}; !slices.Equal(a.effects, want) {
		t.Errorf("%q, want %q", a.effects, want)
	}
	leg := record(1, true).Server
	if err := a.shell.ServerLeg(0, 1, &leg, [2]uint64{}); err != nil || !a.kicked {
		t.Errorf("kicked %v, %v", a.kicked, err)
	}
	a.kicked = false
	a.shell.Run(0)
	begin(t, 0, a, b)
	exchange(t, 0, a, b)
	if want := []string{"unprotect 1", "opened 1", "leg 1", "adopt 1"}; !slices.Equal(a.effects, want) {
		t.Errorf("%q, want %q", a.effects, want)
	}
	if a.mayTake != 0 || a.core.InSync() {
		t.Error("in sync before the connection was adopted")
	}
	if err := a.shell.Forgo(0, 1); err != nil {
		t.Fatal(err)
	}
	exchange(t, 0, a, b)
	if a.mayTake != 1 || !a.core.InSync() || !slices.ContainsFunc(a.news, func(n News) bool { return n.InSync }) {
		t.Errorf("told %d times before it left, in sync %v, news %+v", a.mayTake, a.core.InSync(), a.news)
	}
}

// A digest leaves before Released returns: the bytes follow.
func TestReleasedIsSentAtOnce(t *testing.T) {
	a, b := newEnd(t, replication.RoleActive), newEnd(t, replication.RoleStandby)
	begin(t, 0, a, b)
	if err := a.shell.Open(0, record(1, true)); err != nil {
		t.Fatal(err)
	}
	exchange(t, 0, a, b)
	err := errors.Join(a.shell.Received(0, 1, replication.Response, 10, false), a.shell.Released(0, 1, replication.Released{End: 10}))
	if err != nil || len(a.sent) != 1 {
		t.Errorf("%d frames, %v", len(a.sent), err)
	}
}

// A session that cannot be written is not written again, and none that has ended is.
func TestNothingIsSentAfterTheEnd(t *testing.T) {
	a, b := newEnd(t, replication.RoleActive), newEnd(t, replication.RoleStandby)
	begin(t, 0, a, b)
	exchange(t, 0, a, b)
	a.closed = true
	_ = a.shell.Open(0, record(1, false))
	a.shell.Run(0)
	a.closed = false
	_ = a.shell.Open(0, record(2, false))
	a.shell.Run(0)
	if len(a.sent) > 0 {
		t.Error("sent after an error")
	}
	a.shell.With(0, (*replication.Core).PeerLost)
	begin(t, 0, a, newEnd(t, replication.RoleStandby))
	a.sent = nil
	a.shell.Detach()
	a.shell.Tick(100*ms, 0)
	if len(a.sent) > 0 {
		t.Error("sent after the end")
	}
}

// Tick is asked for when something is due, not before, and earlier if that changes.
func TestWake(t *testing.T) {
	a, b := newEnd(t, replication.RoleActive), newEnd(t, replication.RoleStandby)
	if a.shell.Due() != replication.Never {
		t.Error("something is due without a session")
	}
	begin(t, 0, a, b)
	_ = a.shell.Open(0, record(1, false))
	exchange(t, 0, a, b)
	a.shell.Tick(a.wake, 0)
	if due := a.shell.Due(); due != a.wake+20*ms {
		t.Errorf("the next heartbeat is due at %d", due)
	}
	a.wake = 0
	if err := a.shell.Received(1*ms, 1, replication.Response, 5, false); err != nil || a.wake != 0 {
		t.Errorf("woken for %d, before the next heartbeat: %v", a.wake, err)
	}
	for now := a.shell.Due(); now <= 101*ms && !slices.Contains(a.effects, "need 1"); now = a.shell.Due() {
		a.shell.Tick(now, 0)
		exchange(t, now, a, b)
	}
	if !slices.Contains(a.effects, "need 1") {
		t.Errorf("a response that waits was not asked for: %q", a.effects)
	}
}

// The peer that says nothing is dead after the time that was agreed, and not for ever.
func TestSilent(t *testing.T) {
	a, b := newEnd(t, replication.RoleActive), newEnd(t, replication.RoleStandby)
	begin(t, 0, a, b)
	exchange(t, 0, a, b)
	var silent replication.Nanos
	for now := a.shell.Due(); now < 200*ms; now = a.shell.Due() {
		if a.shell.Tick(now, 0).Silent {
			silent = now
			break
		}
	}
	if silent < 100*ms || silent > 100*ms+(looks+1)*pause+20*ms {
		t.Errorf("found dead at %d", silent)
	}
	a.shell.With(silent, (*replication.Core).PeerLost)
	if a.shell.Tick(silent+pause, 0).Silent {
		t.Error("dead without a session")
	}
}

// A takeover's clock is ahead of the former active's by margin and round trip.
func TestTakeover(t *testing.T) {
	a, b := newEnd(t, replication.RoleActive), newEnd(t, replication.RoleStandby)
	begin(t, 0, a, b)
	a.shell.Tick(10*ms, 5000)
	b.shell.Tick(10*ms, 1000)
	for now := 10 * ms; len(a.sent)+len(b.sent) > 0 || a.kicked || b.kicked; now += 3 * ms {
		for _, e := range []*end{a, b} {
			if e.kicked {
				e.kicked = false
				e.shell.Run(now)
			}
			frames := e.sent
			e.sent = nil
			for _, f := range frames {
				step(t, e.peer, now+3*ms, f)
			}
		}
	}
	if _, _, _, err := b.shell.Takeover(2, 1000, 20); !errors.Is(err, replication.ErrSession) {
		t.Errorf("in a session: %v", err)
	}
	b.shell.With(20*ms, (*replication.Core).PeerLost)
	_, _, shift, err := b.shell.Takeover(2, 1000, 20)
	if rtt := uint32(b.core.RTT() / ms); err != nil || rtt == 0 || shift < 4000-2*rtt+20 || shift > 4000+rtt+20 {
		t.Errorf("clock moved by %d, round trip %d ms, %v", shift, rtt, err)
	}
}
