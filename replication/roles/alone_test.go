package roles

import (
	"testing"

	"lockstep/replication"
)

func TestStandbyTakesOver(t *testing.T) {
	t.Run("the process is dead", func(t *testing.T) {
		b := newBench(t, false)
		b.standby()
		b.r.SessionLost(b.now, "closed")
		b.run(20 * millis)
		b.does() // the end of a session is no death
		b.r.Refused(b.now)
		b.does("continue 4")
	})
	t.Run("silent", func(t *testing.T) {
		b := newBench(t, false)
		b.standby()
		b.run(105 * millis)
		b.r.SessionLost(b.now, "heartbeats stopped")
		b.does("continue 4")
	})
	t.Run("closed, and then silent", func(t *testing.T) {
		b := newBench(t, false)
		b.standby()
		b.run(10 * millis)
		b.r.SessionLost(b.now, "closed")
		b.run(80 * millis)
		b.does()
		b.run(10 * millis)
		b.does("continue 4")
	})
	t.Run("restarted", func(t *testing.T) {
		b := newBench(t, false)
		b.standby()
		b.r.SessionLost(b.now, "closed")
		b.meets(Stale, Said{})
		b.does("continue 4")
	})
	t.Run("handed over", func(t *testing.T) {
		b := newBench(t, false)
		b.standby()
		b.r.SessionLost(b.now, "closed")
		b.sleep(300 * millis)
		b.meets(Stale, Said{Epoch: 3, InSync: true})
		b.does("continue 4")
	})
	t.Run("handed over, heard of late", func(t *testing.T) {
		b := newBench(t, false)
		b.standby()
		b.r.SessionLost(b.now, "closed")
		b.sleep(5 * second)
		b.meets(Stale, Said{Epoch: 3, InSync: true})
		b.does("give up") // the active has taken it back by then
	})
	t.Run("cannot", func(t *testing.T) {
		b := newBench(t, false)
		b.standby()
		b.fails = true
		b.r.SessionLost(b.now, "closed")
		b.r.Refused(b.now)
		b.does("give up")
	})
}

// A standby that was not running for a while knows nothing when it wakes, whatever it
// finds.
func TestWokenStandbyKnowsNothing(t *testing.T) {
	asleep := func(t *testing.T) *bench {
		b := newBench(t, false)
		b.standby()
		b.sleep(2 * second)
		return b
	}
	t.Run("its session is closed", func(t *testing.T) {
		b := asleep(t)
		b.r.SessionLost(b.now, "broken pipe")
		b.does("give up")
		b.meets(Begin, Said{Role: replication.RoleActive, Epoch: 3})
		b.does("follow 3")
	})
	t.Run("what waited in its socket is no news", func(t *testing.T) {
		b := asleep(t)
		b.heard = b.now // the active's heartbeats of two seconds ago
		b.r.SessionLost(b.now, "broken pipe")
		b.run(200 * millis)
		b.does("give up")
	})
	t.Run("the active is dead meanwhile", func(t *testing.T) {
		b := newBench(t, false)
		b.standby()
		b.r.SessionLost(b.now, "closed")
		b.sleep(2 * second)
		b.r.Refused(b.now)
		b.does("give up")
		b.run(400 * millis)
		b.does("start empty 3 lost=true") // at once, and it says what is lost
	})
	t.Run("it slept between its word and the session", func(t *testing.T) {
		b := newBench(t, false)
		b.r.Session(b.now+2*second, b.now, b.said(), Said{Role: replication.RoleActive, Epoch: 3})
		b.sleep(2 * second)
		b.session, b.whole, b.heard = true, true, b.now // all that waited in its socket
		b.did = nil
		b.r.SessionLost(b.now, "closed")
		b.does("give up")
	})
	t.Run("nobody is there", func(t *testing.T) {
		b := asleep(t)
		b.r.SessionLost(b.now, "heartbeats stopped")
		b.does("give up")
		b.run(9 * second)
		b.does()
		b.run(2 * second)
		b.does("start empty 3 lost=true")
	})
	t.Run("the active has restarted", func(t *testing.T) {
		b := newBench(t, false)
		b.standby()
		b.r.SessionLost(b.now, "closed")
		b.sleep(2 * second)
		b.meets(Stale, Said{})
		b.does("give up")
	})
}

// A standby whose store is whole gives it up before the active begins a session with it:
// until then it may be taking over.
func TestStoreIsGivenUpFirst(t *testing.T) {
	b := newBench(t, false)
	b.standby()
	b.r.SessionLost(b.now, "reset by a middlebox")
	b.meets(Stale, Said{Role: replication.RoleActive, Epoch: 3})
	b.does("give up")
	b.meets(Begin, Said{Role: replication.RoleActive, Epoch: 3})

	a := newBench(t, true)
	a.active()
	a.r.SessionLost(a.now, "reset by a middlebox")
	a.meets(Stale, Said{Role: replication.RoleStandby, Epoch: 3, InSync: true})
	a.does() // the gates are closed still
	a.meets(Begin, Said{Epoch: 3})
	a.does("go on")
}

func TestUnpluggedStandbyStaysBack(t *testing.T) {
	b := newBench(t, false)
	b.standby()
	b.cutOff = true
	b.run(105 * millis)
	b.r.SessionLost(b.now, "heartbeats stopped")
	b.run(200 * millis)
	b.does()
	b.run(300 * millis)
	b.does("give up")
}

// Who holds nothing waits for whoever may hold connections.
func TestNewcomer(t *testing.T) {
	t.Run("nobody runs there", func(t *testing.T) {
		a := newBench(t, true)
		a.r.Refused(a.now)
		a.run(1400 * millis)
		a.does()
		a.run(200 * millis)
		a.does("start empty 1 lost=false")
	})
	t.Run("silent", func(t *testing.T) {
		a := newBench(t, true)
		a.run(9900 * millis)
		a.does()
		a.run(200 * millis)
		a.does("start empty 1 lost=true")
	})
	t.Run("somebody answers for the addresses", func(t *testing.T) {
		a := newBench(t, true)
		a.r.Claimed(a.now, "stranger") // not asked: means nothing
		for range 3 {
			for len(a.did) == 0 {
				a.run(5 * millis)
			}
			a.r.Claimed(a.now, "b")
			a.does()
			a.run(9 * second)
			a.does()
		}
		a.run(2 * second)
		a.does("start empty 1 lost=true")
	})
	t.Run("both are new", func(t *testing.T) {
		a, b := newBench(t, true), newBench(t, false)
		ofA, ofB := a.said(), b.said()
		if a.r.Session(a.now, a.now, ofA, ofB) != Begin || b.r.Session(b.now, b.now, ofB, ofA) != Begin {
			t.Fatal("no session")
		}
		a.does("start empty 1 lost=false")
		b.does("follow 1")
	})
	t.Run("the peer may still continue what it holds", func(t *testing.T) {
		a := newBench(t, true)
		a.meets(Stale, Said{Role: replication.RoleStandby, Epoch: 3, InSync: true})
		a.does()
	})
}

// What a standby bears of a sync link that was deaf towards its active before that died, with whatever has been promised: silence is borne from
// the newest sign of the active on, the store is good from the newest heartbeat on that it has answered. TestPromise shows that 300 ms
// may always lie between the two with these times.
func TestActiveDiesBehindADeafLink(t *testing.T) {
	late := replication.Promised{
		Least: replication.Promise{Wait: 170 * millis, Mute: 497 * millis},
		Most:  replication.Promise{Wait: 408 * millis, Mute: 497 * millis},
	}
	for _, p := range []replication.Promised{{Least: usual, Most: usual}, late} {
		b := newBench(t, true)
		deaf := b.r.cfg.takeTime(p.Least) - p.Most.Wait
		if deaf < 300*millis-millis {
			t.Errorf("%+v: only %d us", p, deaf/1000)
		}
		for longer, want := range map[Nanos]string{-10 * millis: "continue 4", 10 * millis: "give up"} {
			b := newBench(t, true)
			b.standby()
			b.promised, b.confirmed = p, b.heard-deaf-longer
			b.r.SessionLost(b.now, "heartbeats stopped")
			b.run(second)
			b.does(want)
		}
	}
}
