package sim

import (
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// defaultPairSeeds takes about a minute on two cores with the race detector.
const defaultPairSeeds = 1000

// playPair plays a world with voters or without a witness, and again to see that nothing but the seed
// decides. It says what is wrong, and how to see it again.
func playPair(cfg config) (result, error) {
	kind := "Pair"
	if cfg.Alone {
		kind = "Lone"
	}
	repeat := fmt.Sprintf("repeat: go test ./replication/sim -run %s -seed=%d -fault=%d -kind=%d", kind, cfg.Seed, cfg.Fault, cfg.Kind)
	if cfg.Second > 0 { // there are no flags for it
		repeat = fmt.Sprintf("repeat: the same test, with only %#v", cfg)
	}
	r := run(cfg)
	if r.Err != nil {
		return r, fmt.Errorf("%w\nlast steps:\n%s\n%s", r.Err, strings.Join(r.Tail, "\n"), repeat)
	}
	if again := run(cfg); again.Hash != r.Hash || again.Steps != r.Steps {
		return r, fmt.Errorf("not reproducible: %d steps, then %d\n%s", r.Steps, again.Steps, repeat)
	}
	return r, nil
}

// playAll plays n worlds on all cores: each is a world of its own. The first one that
// fails is reported.
func playAll(t *testing.T, n int, config func(i int) config) (steps int, seen Sometimes, pair PairSometimes, lone LoneSometimes) {
	t.Helper()
	var mu sync.Mutex // guards all of these
	next, failed := 0, n
	var failure error
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= n {
					return
				}
				r, err := playPair(config(i))
				mu.Lock()
				if err != nil && i < failed {
					failed, failure = i, err
					next = n // the others are not begun
				}
				steps += r.Steps
				seen.add(&r.Seen)
				addUp(&pair, &r.Pair)
				addUp(&lone, &r.Lone)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if failure != nil {
		t.Fatal(failure)
	}
	return steps, seen, pair, lone
}

// TestPairSeeds plays many worlds in which both appliances and a witness decide by
// Raft, over a network that fails.
func TestPairSeeds(t *testing.T) {
	if *oneSeed >= 0 {
		r, err := playPair(config{Seed: uint64(*oneSeed), Fault: *oneFault, Kind: FaultKind(*oneKind), Voters: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d steps\n%s\n%+v\n%+v", r.Steps, strings.Join(r.Tail, "\n"), r.Seen, r.Pair)
		return
	}
	n := numSeeds(t, defaultPairSeeds)
	steps, seen, pair, _ := playAll(t, n, func(i int) config { return config{Seed: uint64(*first + i), Fault: -1, Kind: -1, Voters: true} })
	t.Logf("%d seeds, %d steps: %+v %+v", n, steps, seen, pair)
	if n < defaultPairSeeds {
		return // too few to demand everything
	}
	v := reflect.ValueOf(pair)
	for i := range v.NumField() {
		if v.Field(i).Int() == 0 {
			t.Errorf("%s never happened in %d seeds: the simulation does not test it", v.Type().Field(i).Name, n)
		}
	}
	for _, what := range []string{"ContinuedAgain", "RefusedInSnapshot", "CrashInSnapshot", "SnapshotCut", "Released", "AdoptedContinued", "PeerAhead", "Silent",
		"LogContinued", "AdoptedLogContinued", "UnlogContinued", "LegContinued", "CheckpointContinued", "ReleasedAhead"} {
		if reflect.ValueOf(seen).FieldByName(what).Int() == 0 {
			t.Errorf("%s never happened in %d seeds: the simulation does not test it", what, n)
		}
	}
}

// TestDeathInTheFirstMoment plays a world in which the active dies before its standby, which
// has just come in sync, has told its own voter.
func TestDeathInTheFirstMoment(t *testing.T) {
	for _, seed := range []uint64{4877, 9286, 9588, 15443, 17551, 17860} {
		if _, err := playPair(config{Seed: seed, Fault: -1, Kind: -1, Voters: true, Terminated: true}); err != nil {
			t.Error(err)
		}
	}
}

// TestPairFaultAtEveryStep lets one fault strike before each step of two worlds, in
// turn with and without the disk, with and without notice, from when the pair comes
// in sync on. Each is a single failure: nothing that was protected may be lost.
func TestPairFaultAtEveryStep(t *testing.T) {
	if *oneSeed >= 0 {
		t.Skip("one seed only")
	}
	kinds := []FaultKind{CrashActive, HostOff, CrashWipe, CutLink, CrashStandby, FreezeAny, SwitchOver, CrashVoter}
	first, last := 300, 500
	if testing.Short() {
		last = 340
	}
	n := 2 * (last - first)
	_, seen, pair, _ := playAll(t, n, func(i int) config {
		step := first + i/2
		return config{Seed: uint64(5001 + i%2), Fault: step, Kind: kinds[step%len(kinds)], Voters: true}
	})
	t.Logf("%d faults: %+v %+v", n, seen, pair)
	if pair.TakeoverWhole == 0 || pair.HandedOver == 0 || pair.LostProtected > 0 {
		t.Errorf("not all that this test is for has happened, or too much: %+v", pair)
	}
}
