package arbiter

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// TestEqualInputs: nothing but the inputs decides, byte for byte, although raft draws
// random election time-outs.
func TestEqualInputs(t *testing.T) {
	life := func() []byte {
		x := newTrio(t)
		x.run(500 * millisecond)
		x.core[0].AddStandby(x.now, x.core[1].self)
		x.run(100 * millisecond)
		x.down[0] = true
		x.run(1000 * millisecond)
		x.down[0], x.down[1] = false, true
		x.run(3000 * millisecond)
		return x.sent
	}
	first := life()
	for range 20 {
		if !bytes.Equal(first, life()) {
			t.Fatal("equal inputs, different outputs")
		}
	}
}

func TestFirstStart(t *testing.T) {
	x := newTrio(t)
	x.run(300 * millisecond)
	r := x.core[0].Ready()
	if want := (State{Epoch: 1, Active: x.core[0].self}); r.State != want || !r.Leader || !r.Solo || !r.Quorum {
		t.Fatalf("%+v", r)
	}
	if len(x.claim) != 1 || x.claim[0] != (Claim{Epoch: 1}) {
		t.Fatalf("claims %+v", x.claim)
	}
	if left := r.Lease - x.now; left <= 0 || left > 98*millisecond {
		t.Fatalf("lease of %d ns", left)
	}
}

// TestProofOfDeath: the standby takes over at once, within the dead one's lease, and
// only because of the proof.
func TestProofOfDeath(t *testing.T) {
	for _, proof := range []bool{true, false} {
		x := newTrio(t)
		x.core[1].SetAble(0, 1, true)
		x.run(300 * millisecond)
		x.core[0].AddStandby(x.now, x.core[1].self)
		x.run(40 * millisecond)
		x.down[0] = true
		if proof {
			x.core[1].PeerGone(x.now, x.core[0].self)
			if err := x.core[1].Step(x.now, x.core[0].self, nil); !errors.Is(err, ErrGone) {
				t.Errorf("message of a dead process: %v", err)
			}
		}
		x.exchange()
		if got := x.core[1].state.Epoch; (got == 2) != proof {
			t.Fatalf("proof %v: epoch %d", proof, got)
		}
		x.run(200 * millisecond)
		if got := x.claim[len(x.claim)-1]; got != (Claim{Epoch: 2, Whole: true, InSet: true}) {
			t.Fatalf("proof %v: claim %+v", proof, got)
		}
	}
}

// TestClaimInTheSet: a standby of which the voters know that it holds everything says so in
// its claim, though it has not told its own voter yet.
func TestClaimInTheSet(t *testing.T) {
	for _, in := range []bool{true, false} {
		x := newTrio(t)
		x.run(300 * millisecond)
		if in {
			x.core[0].AddStandby(x.now, x.core[1].self)
			x.run(40 * millisecond)
		}
		x.down[0] = true
		x.core[1].PeerGone(x.now, x.core[0].self)
		x.exchange()
		x.run(200 * millisecond)
		if got := x.claim[len(x.claim)-1]; got != (Claim{Epoch: 2, InSet: in}) {
			t.Fatalf("in the set %v: claim %+v", in, got)
		}
	}
}

// TestYield: the lease ends with the call; if the standby cannot claim, it begins
// again in a later term and the same epoch.
func TestYield(t *testing.T) {
	for _, able := range []bool{true, false} {
		x := newTrio(t)
		x.core[1].SetAble(0, 1, able)
		x.run(300 * millisecond)
		a := x.core[0]
		if err := a.Yield(x.now, "b"); !errors.Is(err, ErrStandby) {
			t.Fatalf("yield without a standby: %v", err)
		}
		a.AddStandby(x.now, x.core[1].self)
		x.run(40 * millisecond)
		if err := x.core[1].Yield(x.now, "a"); !errors.Is(err, ErrNotActive) {
			t.Fatalf("yield of the standby: %v", err)
		}
		if err := a.Yield(x.now, "b"); err != nil {
			t.Fatal(err)
		}
		if l := a.lease(); l != 0 {
			t.Fatalf("lease %d after Yield", l)
		}
		x.run(500 * millisecond)
		r := a.Ready()
		if able != (r.State.Active.Node == "b") || able == (r.Lease > x.now) {
			t.Fatalf("able %v: %+v", able, r)
		}
	}
}

// TestRestartedVoterKeepsQuiet: a witness that restarts within the active's lease
// refuses a vote until that lease is over.
func TestRestartedVoterKeepsQuiet(t *testing.T) {
	x := newTrio(t)
	x.run(300 * millisecond)
	lease := x.core[0].Ready().Lease
	x.down[0] = true
	w := testCore(t, "w", 9, x.disk[2])
	x.core[2] = w
	for x.core[1].state.Epoch == 1 && x.now < 2000*millisecond {
		x.run(millisecond)
		if x.core[1].leads() && x.now < lease {
			t.Fatalf("elected at %d, the lease lasts until %d", x.now, lease)
		}
	}
	if w.Counters().VotesRefused == 0 {
		t.Error("no vote was refused: the test shows nothing")
	}
}

// TestPatientStandby: a standby that bears silence for longer asks for votes that much
// later, and an active that was only late goes on; proof of its death is not waited for.
func TestPatientStandby(t *testing.T) {
	begin := func() *trio {
		x := newTrio(t)
		x.core[1].SetAble(0, 1, true)
		x.run(300 * millisecond)
		x.core[0].AddStandby(x.now, x.core[1].self)
		x.run(40 * millisecond)
		return x
	}
	for _, patient := range []bool{false, true} {
		x := begin()
		if patient {
			x.core[1].SetDelay(400 * millisecond)
		}
		x.down[0] = true
		x.run(300 * millisecond)
		x.down[0] = false
		x.run(500 * millisecond)
		if kept := x.core[0].state.Active == x.core[0].self; kept != patient {
			t.Errorf("patient %v: the late active is still active: %v", patient, kept)
		}
	}
	x := begin()
	x.core[1].SetDelay(1000 * millisecond)
	x.down[0] = true
	x.core[1].PeerGone(x.now, x.core[0].self)
	x.run(300 * millisecond)
	if x.core[1].state.Active != x.core[1].self {
		t.Error("a proof of death is waited out")
	}
}

// TestLogOnlyAtTheWitness: what was committed last is held by the witness and a dead
// appliance. The other one gets it through the witness, waits, and starts empty.
func TestLogOnlyAtTheWitness(t *testing.T) {
	x := newTrio(t)
	x.run(300 * millisecond)
	x.down[0] = true
	x.run(1500 * millisecond) // b waits for a in vain, and claims
	if got := x.core[1].state; got.Active.Node != "b" {
		t.Fatalf("%+v", got)
	}
	x.down[0], x.down[1] = false, true
	x.core[0] = testCore(t, "a", 11, x.disk[0])
	x.run(2500 * millisecond)
	if got := x.core[0].state; got.Active != x.core[0].self || x.core[2].leads() {
		t.Fatalf("%+v", got)
	}
}

func TestLostDisk(t *testing.T) {
	x := newTrio(t)
	x.run(300 * millisecond)
	x.core[1], x.lost = testCore(t, "b", 12, nil), true
	x.core[1].Tick(x.now)
	x.core[1].Ready() // the question is lost
	x.down[0] = true
	x.run(500 * millisecond)
	if r := x.core[1].Ready(); r.Joined || r.Leader {
		t.Fatalf("votes without having heard from a: %+v", r)
	}
	x.down[0] = false
	x.run(500 * millisecond)
	if r := x.core[1].Ready(); !r.Joined || r.State.Epoch == 0 {
		t.Fatalf("does not come back: %+v", r)
	}
}

func TestStored(t *testing.T) {
	x := newTrio(t)
	x.run(300 * millisecond)
	good := x.disk[0]
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		_, err := New(Config{Self: Member{"a", 2}, Appliances: [2]string{"a", "b"}, Witness: "w", Stored: bad})
		if !errors.Is(err, ErrStored) || !strings.Contains(err.Error(), "move the file away") {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
	_, err := New(Config{Self: Member{"b", 2}, Appliances: [2]string{"a", "b"}, Witness: "w", Stored: good})
	if !errors.Is(err, ErrStored) || !strings.Contains(err.Error(), `"b"`) {
		t.Fatalf("another voter's blob: %v", err)
	}
}

func TestConfig(t *testing.T) {
	good := Config{Self: Member{"a", 1}, Appliances: [2]string{"a", "b"}, Witness: "w"}
	for name, spoil := range map[string]func(*Config){
		"self is no voter": func(c *Config) { c.Self.Node = "x" },
		"no boot":          func(c *Config) { c.Self.Boot = 0 },
		"same names":       func(c *Config) { c.Witness = "b" },
		"empty name":       func(c *Config) { c.Appliances[1] = "" },
		"long name":        func(c *Config) { c.Witness = strings.Repeat("w", 65) },
		"short time-out":   func(c *Config) { c.FailureTimeout = 30 * millisecond },
		"short patience":   func(c *Config) { c.Patience = 200 * millisecond },
	} {
		cfg := good
		spoil(&cfg)
		if _, err := New(cfg); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
