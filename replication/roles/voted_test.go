package roles

import (
	"fmt"
	"strings"
	"testing"

	"lockstep/replication"
	"lockstep/replication/arbiter"
)

// voted is an appliance with a witness, made of what the rules ask for.
type voted struct {
	role                    replication.Role
	epoch                   uint64
	leased                  uint64 // the voters let us speak for that epoch now
	inSync, session, parked bool
	yield                   error  // what Yield says
	why                     string // of Continue
	did                     []string
}

func (v *voted) note(format string, args ...any) { v.did = append(v.did, fmt.Sprintf(format, args...)) }

func (v *voted) Role() replication.Role    { return v.role }
func (v *voted) Epoch() uint64             { return v.epoch }
func (v *voted) InSync() bool              { return v.inSync }
func (v *voted) Connected() bool           { return v.session }
func (v *voted) Release()                  { v.note("release") }
func (v *voted) Unpark()                   { v.parked = false }
func (v *voted) Leased(epoch uint64) bool  { return v.leased == epoch }
func (v *voted) SetAble(uint64, bool)      {}
func (v *voted) AddStandby(arbiter.Member) {}
func (v *voted) RemoveStandby()            { v.note("remove the standby") }
func (v *voted) Yield(string) error        { return v.yield }
func (v *voted) SeekProof(arbiter.Member)  { v.note("seek proof") }
func (v *voted) Mute()                     { v.note("mute") }
func (v *voted) Unmute(why error)          { v.note("unmute: %v", why) }
func (v *voted) Announce()                 { v.note("announce") }
func (v *voted) Say(Event, string)         {}
func (v *voted) Follow(epoch uint64)       { v.become(replication.RoleStandby, epoch, "follow") }
func (v *voted) StepDown(string)           { v.become(replication.RoleNone, v.epoch, "step down") }

func (v *voted) CloseSession() bool {
	was := v.session
	v.session = false
	return was
}

func (v *voted) StartEmpty(epoch uint64, _, lost string) {
	v.become(replication.RoleActive, epoch, "start empty")
	if lost != "" {
		v.note("lost")
	}
}

func (v *voted) Continue(epoch uint64, _ Nanos, why string) error {
	v.become(replication.RoleActive, epoch, "continue")
	v.why = why
	return nil
}

func (v *voted) become(role replication.Role, epoch uint64, how string) {
	v.role, v.epoch = role, epoch
	v.note("%s %d", how, epoch)
}

func (v *voted) does(t *testing.T, want ...string) {
	t.Helper()
	if strings.Join(v.did, ", ") != strings.Join(want, ", ") {
		t.Fatalf("done: %q, want %q", v.did, want)
	}
	v.did = nil
}

var (
	us, them = Said{Node: "a", Boot: Boot{1}}, Said{Node: "b", Boot: Boot{2}}
	ours     = arbiter.State{Epoch: 2, Active: us.member()}
)

// votedStandby is in sync in epoch 1.
func votedStandby() (*voted, *Voted) {
	v := &voted{role: replication.RoleStandby, epoch: 1, inSync: true}
	r := NewVoted(us.member(), v, 0)
	r.Decided(0, Decision{State: arbiter.State{Epoch: 1, Active: them.member(), Standby: us.member()}})
	return v, r
}

// votedActive serves epoch 2 with a standby in sync, and is at now.
func votedActive(t *testing.T, now Nanos) (*voted, *Voted) {
	t.Helper()
	v, r := votedStandby()
	v.leased = 2
	r.Decided(now, Decision{State: ours, Claim: &arbiter.Claim{Epoch: 2, Whole: true}})
	if got := r.Session(now, now, Said{Role: v.role, Epoch: 2, InSync: true}, them); got != Begin {
		t.Fatalf("verdict %v", got)
	}
	v.session = true
	r.SyncChanged()
	with := ours
	with.Standby = them.member()
	r.Decided(now, Decision{State: with})
	v.did = nil
	return v, r
}

// Nobody acts on a claim that may not be the newest one: whoever was stopped right after
// it wakes with the lease over, and has not heard yet who has claimed since.
func TestClaimIsActedOnWithinItsLease(t *testing.T) {
	now := 10 * millis
	claim := &arbiter.Claim{Epoch: 2, Whole: true}
	t.Run("in time", func(t *testing.T) {
		v, r := votedStandby()
		v.leased = 2
		r.Decided(now, Decision{ours, claim, true})
		v.does(t, "continue 2")
	})
	t.Run("the lease is over, and comes back", func(t *testing.T) {
		v, r := votedStandby()
		r.Decided(now, Decision{ours, claim, true})
		r.Tick(now)
		v.does(t)
		if r.Next() > now+claimLook {
			t.Error("the claim is forgotten")
		}
		v.leased = 2
		r.Tick(now)
		v.does(t, "continue 2")
		r.Tick(now)
		v.does(t)
	})
	t.Run("somebody has claimed since", func(t *testing.T) {
		v, r := votedStandby()
		r.Decided(now, Decision{ours, claim, true})
		v.does(t)
		r.Decided(now, Decision{State: arbiter.State{Epoch: 3, Active: them.member()}})
		v.leased = 2
		r.Tick(now)
		v.does(t)
	})
	t.Run("who has claimed since is met first", func(t *testing.T) {
		v, r := votedStandby()
		r.Decided(now, Decision{ours, claim, true})
		if got := r.Session(now, now, Said{Role: v.role, Epoch: 1, InSync: true}, Said{Node: "b", Role: replication.RoleActive, Epoch: 3}); got != Begin {
			t.Fatalf("verdict %v", got)
		}
		v.leased = 2
		r.Tick(now)
		v.does(t, "follow 3")
	})
	t.Run("an active of an older epoch", func(t *testing.T) {
		v, r := votedStandby()
		v.role = replication.RoleActive
		r.Decided(now, Decision{arbiter.State{Epoch: 3, Active: us.member()}, &arbiter.Claim{Epoch: 3}, true})
		v.does(t, "mute", "step down 1") // at once: what it has is no longer its own
		v.leased = 3
		r.Tick(now)
		v.does(t, "start empty 3", "lost")
	})
}

// What is put off, waited for and looked at now and then is the rules' own affair: whoever
// drives them has only to call Tick.
func TestVotedInTime(t *testing.T) {
	t.Run("a hand-over that is not taken", func(t *testing.T) {
		v, r := votedActive(t, second)
		if err := r.HandOver(second); err != nil {
			t.Fatal(err)
		}
		if err := r.Drained(second); err != nil {
			t.Fatal(err)
		}
		r.Tick(second + HandOverLimit - 1)
		v.does(t, "mute")
		r.Tick(second + HandOverLimit)
		v.does(t, "unmute: "+ErrNotClaimed.Error())
		r.Tick(second + 2*HandOverLimit)
		v.does(t)
	})
	t.Run("a hand-over that is", func(t *testing.T) {
		v, r := votedActive(t, second)
		if r.HandOver(second) != nil || r.Drained(second) != nil {
			t.Fatal("no hand-over")
		}
		r.Decided(second, Decision{State: arbiter.State{Epoch: 3, Active: them.member()}})
		v.does(t, "mute", "mute", "release", "step down 2")
		r.Tick(second + HandOverLimit)
		v.does(t, "seek proof")
	})
	t.Run("a session that is put off", func(t *testing.T) {
		v, r := votedStandby()
		if got := r.Session(second, second, Said{Role: v.role, Epoch: 1, InSync: true}, Said{Role: v.role, Epoch: 1, InSync: true}); got != Park {
			t.Fatalf("verdict %v", got)
		}
		v.parked = true
		r.Tick(second + parkTime - 1)
		if !v.parked {
			t.Error("let go at once")
		}
		r.Tick(second + parkTime)
		if v.parked {
			t.Error("not let go")
		}
	})
	t.Run("the lease runs out, and is back", func(t *testing.T) {
		v, r := votedActive(t, second)
		r.Tick(second)
		v.leased = 0
		r.Tick(second + leaseLook)
		v.does(t)
		v.leased = 2
		r.Tick(second + 2*leaseLook)
		v.does(t, "announce")
	})
	t.Run("in the set before its voter knows that it is able", func(t *testing.T) {
		v, r := votedStandby()
		v.leased = 2
		r.Decided(second, Decision{ours, &arbiter.Claim{Epoch: 2, InSet: true}, true})
		v.does(t, "continue 2")

		v, r = votedStandby()
		v.leased, v.inSync = 2, false // it was, and has contradicted its store since
		r.Decided(second, Decision{ours, &arbiter.Claim{Epoch: 2, InSet: true}, true})
		v.does(t, "start empty 2", "lost")
	})
	t.Run("why it takes over", func(t *testing.T) {
		v, r := votedStandby()
		v.session, v.leased = true, 2
		r.SessionLost(second, "reset")
		r.Decided(2*second, Decision{ours, &arbiter.Claim{Epoch: 2, Whole: true}, true})
		v.does(t, "release", "seek proof", "continue 2")
		if v.why != "reset" {
			t.Errorf("because of %q", v.why)
		}
	})
}

// An active whose standby the voters may have in the set opens no gate before they have
// taken it out; one that they have never heard of needs nobody's word.
func TestGatesWaitForTheVoters(t *testing.T) {
	v, r := votedActive(t, second)
	r.SessionLost(second, "reset")
	v.does(t, "remove the standby")
	r.Decided(second, Decision{State: ours})
	v.does(t)
	r.Decided(second, Decision{State: ours, Solo: true})
	v.does(t, "release")

	if r.Session(second, second, Said{Role: v.role, Epoch: 2, InSync: true}, them) != Begin {
		t.Fatal("no session")
	}
	v.session = true
	r.SessionLost(second, "reset")
	v.does(t, "release")
}
