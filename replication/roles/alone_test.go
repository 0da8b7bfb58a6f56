package roles

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"lockstep/replication"
)

// lone is an appliance made of what the rules ask for; it notes what they want done.
type lone struct {
	role        replication.Role
	epoch       uint64
	whole       bool
	session     bool
	replaceable bool
	heard       Nanos
	confirmed   Nanos
	lease       Nanos
	cutOff      bool
	fails       bool // Continue does
	proving     bool
	mute        bool
	now         Nanos
	did         []string
}

func (l *lone) note(format string, args ...any) { l.did = append(l.did, fmt.Sprintf(format, args...)) }

func (l *lone) Role() replication.Role   { return l.role }
func (l *lone) Epoch() uint64            { return l.epoch }
func (l *lone) InSync() bool             { return l.role == replication.RoleStandby && l.whole }
func (l *lone) Connected() bool          { return l.session }
func (l *lone) Replaceable() bool        { return l.replaceable }
func (l *lone) Heard() Nanos             { return l.heard }
func (l *lone) Confirmed() (Nanos, bool) { return l.confirmed, l.confirmed > 0 }
func (l *lone) Lease() Nanos             { return l.lease }
func (l *lone) CutOff() bool             { return l.cutOff }
func (l *lone) CloseSession() bool {
	was := l.session
	l.session = false
	return was
}
func (l *lone) Release() { l.replaceable = false }
func (l *lone) Follow(epoch uint64) {
	l.role, l.epoch, l.whole = replication.RoleStandby, epoch, false
	l.note("follow %d", epoch)
}
func (l *lone) Continue(epoch uint64, _ Nanos, _ string) error {
	if l.fails {
		return errors.New("cannot")
	}
	l.role, l.epoch, l.mute = replication.RoleActive, epoch, false
	l.note("continue %d", epoch)
	return nil
}
func (l *lone) StartEmpty(epoch uint64, _, lost string) {
	l.role, l.epoch, l.mute = replication.RoleActive, epoch, false
	l.note("start empty %d lost=%v", epoch, lost != "")
}
func (l *lone) Raise(epoch uint64) error {
	l.epoch = epoch
	l.note("raise %d", epoch)
	return nil
}
func (l *lone) Mute() { l.mute = true; l.note("mute") }
func (l *lone) StepDown(string) {
	l.role, l.mute, l.replaceable = replication.RoleNone, true, false
	l.note("step down")
}
func (l *lone) GiveUp(string) {
	l.role, l.whole = replication.RoleNone, false
	l.note("give up")
}
func (l *lone) GoOn(until Nanos) {
	l.replaceable, l.mute, l.lease = false, false, until
	l.note("go on")
}
func (l *lone) OwnLease(until Nanos) {
	if !l.replaceable {
		l.lease = until
	}
}
func (l *lone) Ask()              { l.note("ask") }
func (l *lone) Prove(on bool)     { l.proving = on }
func (l *lone) Say(Event, string) {}

// bench is one appliance of a pair, b or a, with 20 ms and 100 ms.
type bench struct {
	t *testing.T
	*lone
	r *Alone
}

const second = 1000 * millis

var first, other = Boot{1}, Boot{2} // incarnations of the peer

func newBench(t *testing.T, smaller bool) *bench {
	b := &bench{t: t, lone: &lone{now: second}}
	cfg := AloneConfig{Smaller: smaller, Heartbeat: 20 * millis, FailureTimeout: 100 * millis, StartEmptyAfter: 10 * second, Settle: 1500 * millis}
	b.r = NewAlone(cfg, b.lone, b.now)
	return b
}

// saidNow is what this appliance would say of itself.
func (b *bench) said() Said {
	if b.r.Handed() {
		return Said{Epoch: b.epoch, InSync: true}
	}
	return Said{Role: b.role, Epoch: b.epoch, InSync: b.InSync()}
}

// standby makes it a standby in sync in epoch 3, whose newest confirmed heartbeat is a
// round trip old.
func (b *bench) standby() {
	b.meets(Begin, Said{Role: replication.RoleActive, Epoch: 3})
	b.session, b.whole, b.heard, b.confirmed = true, true, b.now, b.now-millis
	b.did = nil
}

// active makes it an active in epoch 3 with a standby in sync.
func (b *bench) active() {
	b.role, b.epoch = replication.RoleActive, 2
	b.r.stage, b.r.begun = solitary, b.now
	b.meets(Begin, Said{Epoch: 3, Boot: first})
	b.session, b.replaceable, b.lease = true, true, b.now+98*millis
	b.did = nil
}

// drained is where the standby has confirmed everything.
func (b *bench) drained() {
	b.t.Helper()
	if err := b.r.Drained(b.now); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) meets(want Verdict, theirs Said) {
	b.t.Helper()
	if got := b.r.Session(b.now, b.now, b.said(), theirs); got != want {
		b.t.Fatalf("a peer that says %+v: verdict %v, want %v (%s)", theirs, got, want, b.r.Stage())
	}
}

// run lets time pass, with a look every few milliseconds.
func (b *bench) run(d Nanos) {
	for end := b.now + d; b.now < end; {
		b.now += 5 * millis
		b.r.Tick(b.now)
	}
}

// sleep lets time pass unseen.
func (b *bench) sleep(d Nanos) { b.now += d }

// does checks what was done since the last call; questions do not count.
func (b *bench) does(want ...string) {
	b.t.Helper()
	got := []string{}
	for _, d := range b.did {
		if d != "ask" {
			got = append(got, d)
		}
	}
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		b.t.Fatalf("done: %q, want %q (%s)", got, want, b.r.Stage())
	}
	b.did = nil
}

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

func TestActiveWithoutStandby(t *testing.T) {
	t.Run("its process is dead", func(t *testing.T) {
		a := newBench(t, true)
		a.active()
		a.r.SessionLost(a.now, "closed")
		a.run(20 * millis)
		a.does()
		a.r.Refused(a.now)
		a.does("go on")
	})
	t.Run("it was not in sync", func(t *testing.T) {
		a := newBench(t, true)
		a.active()
		a.replaceable = false
		a.r.SessionLost(a.now, "closed")
		a.does("go on")
	})
	t.Run("silent: it may have taken over", func(t *testing.T) {
		a := newBench(t, true)
		a.active()
		a.run(105 * millis)
		a.r.SessionLost(a.now, "heartbeats stopped")
		a.does("mute")
		a.run(400 * millis)
		a.does()
		a.run(200 * millis)
		a.does("go on")
	})
	t.Run("it has taken over", func(t *testing.T) {
		a := newBench(t, true)
		a.active()
		a.run(105 * millis)
		a.r.SessionLost(a.now, "heartbeats stopped")
		a.run(50 * millis)
		a.r.Claimed(a.now, "b")
		a.does("mute")
		a.run(10 * millis)
		a.r.Claimed(a.now, "b")
		a.does("mute", "step down")
		a.run(5 * second)
		a.does()
	})
	t.Run("one frame of a stranger", func(t *testing.T) {
		a := newBench(t, true)
		a.active()
		a.run(105 * millis)
		a.r.SessionLost(a.now, "heartbeats stopped")
		a.run(50 * millis)
		a.r.Claimed(a.now, "stranger")
		a.sleep(millis)
		a.r.Claimed(a.now, "stranger") // the same frame, twice
		a.run(800 * millis)
		a.does("mute", "go on")
	})
	t.Run("frames of strangers without end", func(t *testing.T) {
		a := newBench(t, true)
		a.active()
		a.run(105 * millis)
		a.r.SessionLost(a.now, "heartbeats stopped")
		for i := range 20 {
			a.run(100 * millis)
			a.r.Claimed(a.now, fmt.Sprint("stranger ", i))
		}
		a.does("mute", "go on")
	})
	t.Run("unplugged: nobody could be heard", func(t *testing.T) {
		a := newBench(t, true)
		a.active()
		a.cutOff = true
		a.run(105 * millis)
		a.r.SessionLost(a.now, "heartbeats stopped")
		a.run(20 * second)
		a.does("mute")
		a.cutOff = false
		a.run(600 * millis)
		a.does("go on")
	})
	t.Run("stopped while it asks", func(t *testing.T) {
		a := newBench(t, true)
		a.active()
		a.run(105 * millis)
		a.r.SessionLost(a.now, "heartbeats stopped")
		a.run(100 * millis)
		a.sleep(2 * second)
		a.run(400 * millis)
		a.does("mute") // it has heard nothing meanwhile
		a.run(200 * millis)
		a.does("go on")
	})
	t.Run("they meet while it is in doubt", func(t *testing.T) {
		a := newBench(t, true)
		a.active()
		a.sleep(2 * second)
		a.r.SessionLost(a.now, "closed")
		a.meets(Stale, Said{Role: replication.RoleStandby, Epoch: 3, InSync: true})
		a.does("mute")
		a.meets(Begin, Said{Epoch: 3, Boot: first})
		a.does("go on")
	})
}

// An active that was not running for longer than its standby needs to take over knows
// nothing either.
func TestWokenActiveKnowsNothing(t *testing.T) {
	t.Run("session first", func(t *testing.T) { wokenActive(t, false) })
	t.Run("announcement first", func(t *testing.T) { wokenActive(t, true) })
}

// wokenActive: early, the announcement is read before the session's end.
func wokenActive(t *testing.T, early bool) {
	asleep := func(t *testing.T) *bench {
		a := newBench(t, true)
		a.active()
		a.sleep(2 * second)
		if early {
			a.r.Claimed(a.now, "b")
		}
		a.r.SessionLost(a.now, "closed")
		if !early {
			a.r.Claimed(a.now, "b") // an announcement that waited in the socket
		}
		a.run(second)
		a.does("mute") // whoever has taken over would have answered; but it may be dead
		return a
	}
	t.Run("nobody has announced itself meanwhile", func(t *testing.T) {
		a := newBench(t, true)
		a.active()
		a.sleep(2 * second)
		a.r.SessionLost(a.now, "closed")
		a.r.Refused(a.now) // the standby has died: nothing happens to connections
		a.run(600 * millis)
		a.does("mute", "go on")
	})
	t.Run("the standby has not taken over", func(t *testing.T) {
		a := asleep(t)
		a.meets(Stale, Said{Role: replication.RoleStandby, Epoch: 3, InSync: true, Boot: first})
		a.does()
		a.meets(Begin, Said{Epoch: 3, Boot: first})
		a.does("go on")
	})
	t.Run("the standby is dead", func(t *testing.T) {
		a := asleep(t)
		a.r.Refused(a.now)
		a.run(400 * millis)
		a.does("mute", "step down", "start empty 3 lost=true")
	})
	t.Run("the standby has restarted", func(t *testing.T) {
		a := asleep(t)
		a.meets(Stale, Said{Boot: other})
		a.does("mute", "step down")
		a.meets(Begin, Said{Boot: other})
		a.does("start empty 4 lost=true")
	})
	t.Run("the standby has taken over, and gave up", func(t *testing.T) {
		a := asleep(t)
		a.meets(Stale, Said{Epoch: 4, Boot: first})
		a.does("mute", "step down")
	})
	t.Run("the standby is not heard of", func(t *testing.T) {
		a := asleep(t)
		a.run(8 * second)
		a.does()
		a.run(2 * second)
		a.does("mute", "step down", "start empty 3 lost=true")
	})
}

// A claim of our addresses is not authenticated.
func TestClaimsWhileAlone(t *testing.T) {
	alone := func(t *testing.T) *bench {
		a := newBench(t, true)
		a.active()
		a.run(105 * millis)
		a.r.SessionLost(a.now, "heartbeats stopped")
		a.run(600 * millis)
		a.does("mute", "go on")
		return a
	}
	t.Run("once", func(t *testing.T) {
		a := alone(t)
		a.r.Claimed(a.now, "stranger")
		a.run(second)
		a.r.Claimed(a.now, "stranger")
		a.run(second)
		a.does()
	})
	t.Run("who answers", func(t *testing.T) {
		a := alone(t)
		a.r.Claimed(a.now, "b")
		a.run(10 * millis)
		a.r.Claimed(a.now, "b")
		a.does("mute")
		a.run(600 * millis) // and says no more
		a.does("go on")
	})
	t.Run("though the peer is dead", func(t *testing.T) {
		a := alone(t)
		a.r.Refused(a.now)
		for range 10 {
			a.r.Claimed(a.now, "stranger")
			a.run(10 * millis)
		}
		a.does()
	})
	t.Run("of the active before, after our takeover", func(t *testing.T) {
		b := newBench(t, false)
		b.standby()
		b.run(105 * millis)
		b.r.SessionLost(b.now, "heartbeats stopped")
		b.r.Claimed(b.now, "a") // was on its way
		b.run(second)
		b.does("continue 4")
	})
	t.Run("with a standby", func(t *testing.T) {
		a := newBench(t, true)
		a.active()
		a.r.Claimed(a.now, "stranger")
		a.run(10 * millis)
		a.r.Claimed(a.now, "stranger")
		a.does()
	})
}

// An active that is alone and stands still for long finds itself mute: somebody may have
// started without its connections.
func TestActiveAloneStandsStill(t *testing.T) {
	a := newBench(t, true)
	a.active()
	a.r.SessionLost(a.now, "closed")
	a.r.Refused(a.now)
	a.run(20 * second)
	a.does("go on")
	a.sleep(4 * second)
	a.run(10 * millis)
	a.does() // nobody starts within that
	a.sleep(6 * second)
	if a.now < a.Lease() {
		t.Fatal("it may speak when it wakes")
	}
	a.run(600 * millis)
	a.does("mute", "go on")
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
