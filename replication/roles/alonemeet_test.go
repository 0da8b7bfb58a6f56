package roles

import (
	"testing"

	"lockstep/replication"
)

// Of two actives the one goes on that has continued something last; then the one that
// holds more. Both sides decide alike.
func TestTwoActivesMeet(t *testing.T) {
	for _, c := range []struct {
		a, b Said
		stay string
	}{
		{Said{Epoch: 3, Holds: 100}, Said{Epoch: 4, Holds: 1}, "b"},
		{Said{Epoch: 1, Holds: 0}, Said{Epoch: 1, Holds: 7}, "b"},
		{Said{Epoch: 1, Holds: 8}, Said{Epoch: 1, Holds: 7}, "a"},
		{Said{Epoch: 2, Holds: 5}, Said{Epoch: 2, Holds: 5}, "a"},
	} {
		a, b := newBench(t, true), newBench(t, false)
		c.a.Role, c.b.Role = replication.RoleActive, replication.RoleActive
		for _, x := range []struct {
			*bench
			ours, theirs Said
		}{{a, c.a, c.b}, {b, c.b, c.a}} {
			x.role, x.epoch, x.r.stage = replication.RoleActive, x.ours.Epoch, solitary
			if x.r.Session(x.now, x.now, x.ours, x.theirs) != Stale {
				t.Fatal("a session between two actives")
			}
		}
		if (a.role == replication.RoleActive) != (c.stay == "a") || (b.role == replication.RoleActive) != (c.stay == "b") {
			t.Errorf("%+v: a is %v, b is %v", c, a.role, b.role)
		}
	}
}

func TestHandOverAlone(t *testing.T) {
	a := newBench(t, true)
	if a.r.HandOver(a.now) != ErrNotActive {
		t.Error("without a role")
	}
	a.active()
	a.replaceable = false
	if a.r.HandOver(a.now) != ErrNotInSync {
		t.Error("without a standby in sync")
	}
	a.replaceable = true
	if err := a.r.HandOver(a.now); err != nil {
		t.Fatal(err)
	}
	a.drained()
	a.does("mute", "step down")
	a.meets(Stale, Said{Role: replication.RoleStandby, Epoch: 3, InSync: true}) // was told, and takes over
	a.meets(Begin, Said{Role: replication.RoleActive, Epoch: 4})
	a.does("follow 4")
}

// The session ends while the standby still confirms: what it was not told, nobody was.
func TestSessionLostInHandOver(t *testing.T) {
	a := newBench(t, true)
	a.active()
	if err := a.r.HandOver(a.now); err != nil {
		t.Fatal(err)
	}
	if !a.r.Handed() {
		t.Error("the standby is told that this one is active")
	}
	a.r.SessionLost(a.now, "closed")
	a.drained()
	a.does("mute", "step down")
}

// The standby dies before it has heard of the hand-over.
func TestHandOverToNobody(t *testing.T) {
	a := newBench(t, true)
	a.active()
	if err := a.r.HandOver(a.now); err != nil {
		t.Fatal(err)
	}
	a.drained()
	a.does("mute", "step down")
	b := newBench(t, false)
	for range 2 {
		ofA, ofB := a.said(), b.said()
		if got, want := a.r.Session(a.now, a.now, ofA, ofB), b.r.Session(b.now, b.now, ofB, ofA); got != want {
			t.Fatalf("a: %v, b: %v", got, want)
		}
	}
	a.does("start empty 4 lost=true")
	b.does("follow 4")
}

// What we have said of ourselves must still be true.
func TestOldNewsAlone(t *testing.T) {
	b := newBench(t, false)
	said := b.said()
	b.standby()
	b.r.SessionLost(b.now, "closed")
	if b.r.Session(b.now, b.now, said, Said{Role: replication.RoleActive, Epoch: 3}) != Stale {
		t.Error("it was a candidate when it said so")
	}
	b.does()
}
