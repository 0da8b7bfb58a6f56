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
	role   replication.Role
	epoch  uint64
	leased uint64 // the voters let us speak for that epoch now
	did    []string
}

func (v *voted) note(format string, args ...any) { v.did = append(v.did, fmt.Sprintf(format, args...)) }

func (v *voted) Role() replication.Role     { return v.role }
func (v *voted) Epoch() uint64              { return v.epoch }
func (v *voted) InSync() bool               { return v.role == replication.RoleStandby }
func (v *voted) Connected() bool            { return false }
func (v *voted) CloseSession() bool         { return false }
func (v *voted) Release()                   {}
func (v *voted) Unpark()                    {}
func (v *voted) Leased(epoch uint64) bool   { return v.leased == epoch }
func (v *voted) SetAble(uint64, bool)       {}
func (v *voted) AddStandby(arbiter.Member)  {}
func (v *voted) RemoveStandby()             {}
func (v *voted) Yield(string) error         { return nil }
func (v *voted) SeekProof(m arbiter.Member) {}
func (v *voted) Mute()                      { v.note("mute") }
func (v *voted) Unmute()                    { v.note("unmute") }
func (v *voted) Follow(epoch uint64)        { v.become(replication.RoleStandby, epoch, "follow") }
func (v *voted) StartEmpty(epoch uint64)    { v.become(replication.RoleActive, epoch, "start empty") }
func (v *voted) Continue(epoch uint64) error {
	v.become(replication.RoleActive, epoch, "continue")
	return nil
}
func (v *voted) StepDown() { v.become(replication.RoleNone, v.epoch, "step down") }

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

// Nobody acts on a claim that may not be the newest one: whoever was stopped right after
// it wakes with the lease over, and has not heard yet who has claimed since.
func TestClaimIsActedOnWithinItsLease(t *testing.T) {
	us, them := arbiter.Member{Node: "a", Boot: 1}, arbiter.Member{Node: "b", Boot: 2}
	ours := arbiter.State{Epoch: 2, Active: us}
	claim := &arbiter.Claim{Epoch: 2, Whole: true}
	standby := func() (*voted, *Rules) {
		v := &voted{role: replication.RoleStandby, epoch: 1}
		r := New(us, v)
		r.Decided(arbiter.State{Epoch: 1, Active: them, Standby: us}, nil, false)
		return v, r
	}
	t.Run("in time", func(t *testing.T) {
		v, r := standby()
		v.leased = 2
		r.Decided(ours, claim, true)
		v.does(t, "continue 2")
	})
	t.Run("the lease is over, and comes back", func(t *testing.T) {
		v, r := standby()
		r.Decided(ours, claim, true)
		r.Tick()
		v.does(t)
		if r.Next() == Never {
			t.Error("the claim is forgotten")
		}
		v.leased = 2
		r.Tick()
		v.does(t, "continue 2")
		if r.Next() != Never {
			t.Error("the claim is kept")
		}
		r.Tick()
		v.does(t)
	})
	t.Run("somebody has claimed since", func(t *testing.T) {
		v, r := standby()
		r.Decided(ours, claim, true)
		v.does(t)
		r.Decided(arbiter.State{Epoch: 3, Active: them}, nil, false)
		v.leased = 2
		r.Tick()
		v.does(t)
	})
	t.Run("who has claimed since is met first", func(t *testing.T) {
		v, r := standby()
		r.Decided(ours, claim, true)
		if got := r.Session(Said{v.role, 1, true}, Said{Role: replication.RoleActive, Epoch: 3}, them); got != Begin {
			t.Fatalf("verdict %v", got)
		}
		v.leased = 2
		r.Tick()
		v.does(t, "follow 3")
	})
	t.Run("an active of an older epoch", func(t *testing.T) {
		v, r := standby()
		v.role = replication.RoleActive
		r.Decided(arbiter.State{Epoch: 3, Active: us}, &arbiter.Claim{Epoch: 3}, true)
		v.does(t, "mute", "step down 1") // at once: what it has is no longer its own
		v.leased = 3
		r.Tick()
		v.does(t, "start empty 3")
	})
}
