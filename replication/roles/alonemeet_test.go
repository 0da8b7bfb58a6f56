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
	a.does("mute")
	a.meets(Stale, Said{Role: replication.RoleStandby, Epoch: 3, InSync: true}) // was told, and takes over
	a.does()
	a.meets(Begin, Said{Role: replication.RoleActive, Epoch: 4})
	a.does("mute", "step down", "follow 4")
}

// handedOver is an active that has handed over.
func handedOver(t *testing.T) *bench {
	t.Helper()
	a := newBench(t, true)
	a.active()
	if err := a.r.HandOver(a.now); err != nil {
		t.Fatal(err)
	}
	a.drained()
	a.does("mute")
	if !a.r.Handed() || a.r.Stage() != HandingOver {
		t.Fatal("the standby is told that this one is active")
	}
	return a
}

// The standby may be out of hearing, or dead: the active keeps what it has until somebody
// has taken over, and goes on if nobody does.
func TestHandOverIsTakenBack(t *testing.T) {
	t.Run("nobody takes over", func(t *testing.T) {
		a := handedOver(t)
		a.run(500 * millis)
		a.does() // the standby's store may be fresh
		a.run(100 * millis)
		a.does("go on")
		if a.r.Handed() {
			t.Error("it says that it is not active, and is")
		}
	})
	t.Run("it is cut off, too", func(t *testing.T) {
		a := handedOver(t)
		a.cutOff = true
		a.run(20 * second)
		a.does()
		a.cutOff = false
		a.run(600 * millis)
		a.does("go on")
	})
	t.Run("the standby has given up its store", func(t *testing.T) {
		a := handedOver(t)
		a.run(450 * millis)
		a.meets(Stale, Said{Epoch: 3, Boot: first})
		a.does() // it must hear first that there is an active
		a.meets(Begin, Said{Epoch: 3, Boot: first})
		a.does("go on")
	})
	t.Run("the standby is dead", func(t *testing.T) {
		a := handedOver(t)
		a.r.Refused(a.now)
		a.run(500 * millis)
		a.does() // it may have taken over before, and its announcement be on its way
		a.run(100 * millis)
		a.does("go on")
	})
	t.Run("the standby has announced itself, and is dead", func(t *testing.T) {
		a := handedOver(t)
		a.r.Claimed(a.now, "b")
		a.r.Refused(a.now)
		a.run(100 * millis)
		a.does("mute", "step down")
	})
	t.Run("the standby answers for the addresses", func(t *testing.T) {
		a := handedOver(t)
		a.r.Claimed(a.now, "b")
		a.run(10 * millis)
		a.r.Claimed(a.now, "b")
		a.does("mute", "step down")
	})
	t.Run("the standby answers, and begins a session before that", func(t *testing.T) {
		a := handedOver(t)
		said := a.said()
		a.r.Claimed(a.now, "b")
		a.run(10 * millis)
		a.r.Claimed(a.now, "b")
		if a.r.Session(a.now, a.now, said, Said{Role: replication.RoleActive, Epoch: 4}) != Begin {
			t.Error("the session that the peer has begun is closed")
		}
		a.does("mute", "step down", "follow 4")
	})
	t.Run("a stranger claims them, and the standby has not taken over", func(t *testing.T) {
		a := handedOver(t)
		a.r.Claimed(a.now, "stranger")
		a.run(second)
		a.does()
		a.meets(Stale, Said{Epoch: 3, Boot: first})
		a.meets(Begin, Said{Epoch: 3, Boot: first})
		a.does("go on")
	})
	t.Run("an active of before", func(t *testing.T) {
		a := handedOver(t)
		b := newBench(t, false)
		b.role, b.epoch, b.r.stage = replication.RoleActive, 2, solitary
		for range 2 {
			ofA, ofB := a.said(), b.said()
			if a.r.Session(a.now, a.now, ofA, ofB) != Stale || b.r.Session(b.now, b.now, ofB, ofA) != Stale {
				t.Fatal("a session between two that hold connections")
			}
		}
		a.does()
		b.does("mute", "step down")
	})
}

// A hand-over in the moment in which the standby is unplugged and the sync link cut: the
// standby gives up its store before the active takes the hand-over back.
func TestHandOverOutOfHearing(t *testing.T) {
	a, b := newBench(t, true), newBench(t, false)
	b.standby()
	a.active()
	b.cutOff = true
	for _, x := range []*bench{a, b} {
		x.run(80 * millis) // with nothing heard
	}
	if err := a.r.HandOver(a.now); err != nil {
		t.Fatal(err)
	}
	a.drained()
	b.run(25 * millis)
	b.r.SessionLost(b.now, "heartbeats stopped")
	for a.now < second+490*millis {
		a.run(5 * millis)
	}
	for b.now < a.now {
		b.run(5 * millis)
	}
	a.does("mute")
	b.does("give up")
	for _, want := range []Verdict{Stale, Begin} {
		ofA, ofB := a.said(), b.said()
		ofB.Boot = first
		x, y := a.r.Session(a.now, a.now, ofA, ofB), b.r.Session(b.now, b.now, ofB, ofA)
		if x != want || y != want {
			t.Fatalf("a: %v, b: %v, want %v", x, y, want)
		}
	}
	a.does("go on")
	b.does("follow 3")
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
	a.does("mute")
	a.meets(Begin, Said{Role: replication.RoleActive, Epoch: 4})
	a.does("mute", "step down", "follow 4")
}

// The standby dies before it has heard of the hand-over, and is back at once.
func TestHandOverToNobody(t *testing.T) {
	a, b := handedOver(t), newBench(t, false)
	meet := func() (Verdict, Verdict) {
		ofA, ofB := a.said(), b.said()
		ofB.Boot = other
		return a.r.Session(a.now, a.now, ofA, ofB), b.r.Session(b.now, b.now, ofB, ofA)
	}
	if x, y := meet(); x != Stale || y != Stale {
		t.Fatalf("a: %v, b: %v", x, y)
	}
	a.run(600 * millis)
	a.does("go on")
	if x, y := meet(); x != Begin || y != Begin {
		t.Fatalf("a: %v, b: %v", x, y)
	}
	b.does("follow 3")
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
