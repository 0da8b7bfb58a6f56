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
	promised    replication.Promised
	peers       replication.Promise
	cutOff      bool
	fails       bool // Continue does
	proving     bool
	mute        bool
	now         Nanos
	did         []string
}

func (l *lone) note(format string, args ...any) { l.did = append(l.did, fmt.Sprintf(format, args...)) }

func (l *lone) Role() replication.Role           { return l.role }
func (l *lone) Epoch() uint64                    { return l.epoch }
func (l *lone) InSync() bool                     { return l.role == replication.RoleStandby && l.whole }
func (l *lone) Connected() bool                  { return l.session }
func (l *lone) Replaceable() bool                { return l.replaceable }
func (l *lone) Heard() Nanos                     { return l.heard }
func (l *lone) Confirmed() (Nanos, bool)         { return l.confirmed, l.confirmed > 0 }
func (l *lone) Lease() Nanos                     { return l.lease }
func (l *lone) Promised() replication.Promised   { return l.promised }
func (l *lone) PeerPromise() replication.Promise { return l.peers }
func (l *lone) CutOff() bool                     { return l.cutOff }
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

// usual is the promise of who is on time.
var usual = replication.Promise{Wait: 100 * millis, Mute: 100 * millis}

var first, other = Boot{1}, Boot{2} // incarnations of the peer

func newBench(t *testing.T, smaller bool) *bench {
	b := &bench{t: t, lone: &lone{now: second, promised: replication.Promised{Least: usual, Most: usual}, peers: usual}}
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
