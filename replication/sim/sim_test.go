package sim

import (
	"flag"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

var (
	oneSeed  = flag.Int64("seed", -1, "run this seed only, and print its trace")
	oneFault = flag.Int("fault", -1, "with -seed: the step of the first fault")
	oneKind  = flag.Int("kind", -1, "with -seed: the kind of the first fault")
	first    = flag.Int("first", 0, "the first of the seeds, so that many can be played in pieces")
	seeds    = flag.Int("seeds", 0, "number of seeds (also SIM_SEEDS; default 300 with an oracle, 1000 with voters, 500 without a witness)")
)

const defaultSeeds = 300

func numSeeds(t *testing.T, otherwise int) int {
	if *seeds > 0 {
		return *seeds
	}
	if s := os.Getenv("SIM_SEEDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("SIM_SEEDS=%q: %v", s, err)
		}
		return n
	}
	return otherwise
}

// runTwice plays a configuration, and again to see that nothing but the seed
// decides.
func runTwice(t *testing.T, cfg config) result {
	t.Helper()
	r := run(cfg)
	if again := run(cfg); again.Hash != r.Hash || again.Steps != r.Steps {
		t.Fatalf("seed %d is not reproducible: %d steps, then %d", cfg.Seed, r.Steps, again.Steps)
	}
	if r.Err != nil {
		t.Fatalf("%v\nlast steps:\n%s\nrepeat: go test ./replication/sim -run 'Test(Seeds|Crash)' -seed=%d -fault=%d -kind=%d",
			r.Err, strings.Join(r.Tail, "\n"), cfg.Seed, cfg.Fault, cfg.Kind)
	}
	return r
}

// TestSeeds plays many worlds.
func TestSeeds(t *testing.T) {
	if *oneSeed >= 0 {
		r := runTwice(t, config{Seed: uint64(*oneSeed), Fault: *oneFault, Kind: FaultKind(*oneKind)})
		t.Logf("%d steps\n%s\n%+v", r.Steps, strings.Join(r.Tail, "\n"), r.Seen)
		return
	}
	n := numSeeds(t, defaultSeeds)
	var total Sometimes
	steps := 0
	for seed := *first; seed < *first+n; seed++ {
		r := runTwice(t, config{Seed: uint64(seed), Fault: -1, Kind: -1})
		total.add(&r.Seen)
		steps += r.Steps
	}
	t.Logf("%d seeds, %d steps: %+v", n, steps, total)
	if n < defaultSeeds {
		return // too few to demand everything
	}
	v := reflect.ValueOf(total)
	for i := range v.NumField() {
		if v.Field(i).Int() == 0 {
			t.Errorf("%s never happened in %d seeds: the simulation does not test it", v.Type().Field(i).Name, n)
		}
	}
}

// TestBothCrash plays a world in which the standby dies, and then the active before it has
// noticed: the standby's next incarnation holds nothing, whatever the arbiter has heard of
// the one before.
func TestBothCrash(t *testing.T) {
	if r := runTwice(t, config{Seed: 7798, Fault: -1, Kind: -1, Terminated: true}); r.Seen.StartedEmpty == 0 {
		t.Errorf("nobody starts empty: %+v", r.Seen)
	}
}

// TestCrashAtEveryStep crashes the active, and cuts the link, before each single
// step of a few worlds.
func TestCrashAtEveryStep(t *testing.T) {
	if *oneSeed >= 0 {
		t.Skip("one seed only")
	}
	last := 400
	if testing.Short() {
		last = 100
	}
	for _, seed := range []uint64{1001, 1002} {
		for step := range last {
			for _, kind := range []FaultKind{CrashActive, CutLink} {
				r := run(config{Seed: seed, Fault: step, Kind: kind})
				if r.Err != nil {
					t.Fatalf("%v\nlast steps:\n%s\nrepeat: go test ./replication/sim -run 'Test(Seeds|Crash)' -seed=%d -fault=%d -kind=%d",
						r.Err, strings.Join(r.Tail, "\n"), seed, step, kind)
				}
			}
		}
	}
}

// TestFaultAtEveryStepOfSnapshot first makes the standby take over and the former
// active rejoin, and then lets each fault strike before each step of the snapshot that
// follows, and a few steps behind it.
func TestFaultAtEveryStepOfSnapshot(t *testing.T) {
	if *oneSeed >= 0 {
		t.Skip("one seed only")
	}
	var total Sometimes
	worlds := 0
	for seed := uint64(2001); worlds < 4; seed++ {
		first := config{Seed: seed, Fault: 150, Kind: CrashActive, Second: maxSteps}
		plain := runTwice(t, first)
		var at [2]int
		for _, s := range plain.Snapshots {
			if s[0] > 150 && s[1] > s[0]+5 && at[0] == 0 {
				at = s
			}
		}
		if at[0] == 0 {
			continue // no connection was running, or none may be adopted
		}
		worlds++
		for step := at[0]; step <= at[1]+5; step++ {
			for kind := range numFaults {
				first.Second, first.SecondKind = step, kind
				r := run(first)
				total.add(&r.Seen)
				if r.Err != nil {
					t.Fatalf("%+v: %v\nlast steps:\n%s", first, r.Err, strings.Join(r.Tail, "\n"))
				}
			}
		}
	}
	t.Logf("%+v", total)
	if total.SnapshotCut == 0 || total.RefusedInSnapshot == 0 || total.CrashInSnapshot == 0 || total.ContinuedAgain == 0 {
		t.Errorf("not all that this test is for has happened: %+v", total)
	}
}

// add sums up field by field.
func (s *Sometimes) add(o *Sometimes) { addUp(s, o) }

func addUp(to, of any) {
	a, b := reflect.ValueOf(to).Elem(), reflect.ValueOf(of).Elem()
	for i := range a.NumField() {
		a.Field(i).SetInt(a.Field(i).Int() + b.Field(i).Int())
	}
}
