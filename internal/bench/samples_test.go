package bench

import (
	"math"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
		ok     bool
	}{
		{nil, 0, false},
		{[]float64{3}, 3, true},
		{[]float64{9, 1}, 5, true},
		{[]float64{7, 1, 100}, 7, true},
		{[]float64{4, 1, 3, 2}, 2.5, true},
	} {
		got, ok := median(c.values)
		if got != c.want || ok != c.ok {
			t.Errorf("median(%v) = %v, %v; want %v, %v", c.values, got, ok, c.want, c.ok)
		}
	}
	v := []float64{3, 1, 2}
	median(v)
	if v[0] != 3 {
		t.Error("median sorted its argument")
	}
}

func TestCompareTakesRoundsTogether(t *testing.T) {
	s := newSamples()
	a, b := key{offloadOff, paired, "x"}, key{offloadOff, alone, "x"}
	// The machine was twice as fast in round 1; b is missing in round 2, a in round 3.
	for round, v := range []float64{10, 20, 99} {
		s.add(a, sample{Round: round, Value: v})
	}
	for _, v := range []sample{{Round: 1, Value: 40}, {Value: 20}, {Round: 3, Value: 1}} {
		s.add(b, v)
	}
	if got, ok := s.compare(a, b, ratio); !ok || got != 0.5 {
		t.Errorf("ratio %v, %v; want 0.5", got, ok)
	}
	if got, ok := s.compare(a, b, difference); !ok || got != -15 {
		t.Errorf("difference %v, %v; want -15", got, ok)
	}
	if _, ok := s.compare(a, key{offloadOn, alone, "x"}, ratio); ok {
		t.Error("a ratio with nothing")
	}
	s.add(key{offloadOff, haproxy, "x"}, sample{Round: 0, Value: 0})
	if _, ok := s.compare(a, key{offloadOff, haproxy, "x"}, ratio); ok {
		t.Error("a ratio to zero counts")
	}
}

func TestSamplesIgnoreWhatIsNoNumber(t *testing.T) {
	s, k := newSamples(), key{offloadOn, alone, "x"}
	s.add(k, sample{Round: 0, Value: math.NaN()})
	s.add(k, sample{Round: 1, Value: math.Inf(1)})
	if _, ok := s.median(k); ok {
		t.Error("a median of nothing")
	}
	if _, ok := s.worst(k); ok {
		t.Error("a worst of nothing")
	}
	s.note(k, "first")
	s.note(k, "second")
	if got := s.cells[k].note; got != "first" {
		t.Errorf("note %q", got)
	}
}

func TestJudge(t *testing.T) {
	s := newSamples()
	all := targets(100, 10000)
	for _, v := range judge(s, offloadOff, all) {
		if v.Value != nil || v.Pass {
			t.Errorf("%s: judged without a figure: %+v", v.Title, v)
		}
	}
	put := func(k kind, figure string, v float64) { s.add(key{offloadOff, k, figure}, sample{Round: 0, Value: v}) }
	put(paired, "down-1", 94)
	put(alone, "down-1", 100)
	put(haproxy, "down-1", 111)
	put(paired, "up-8", 70)
	put(alone, "up-8", 100)
	put(paired, "kept-1-p50", 300)
	put(alone, "kept-1-p50", 200)
	put(paired, failGap, 50)
	put(paired, quietGap, 34)
	put(paired, failBeyond, 16)
	put(paired, switchBeyond, 10)
	put(paired, crowdBeyond, 20.1)
	put(paired, frozenGap, 130)
	put(paired, failLost, 0)
	put(paired, crowdIdle, 1)
	put(paired, idleStandby, 0.5)
	want := map[string]bool{
		"bulk download, 1 stream, pair : alone":                                                         false, // 0.94
		"bulk download, 1 stream, alone : HAProxy":                                                      true,  // 0.9009
		"bulk upload, 8 streams, pair : alone":                                                          true,  // 0.7, the limit itself
		"added p50, pair over alone, requests, 1 kept-alive connection, ends on two CPUs":               true,  // 100 us, the same
		"kill -9, 100 busy: gap beyond that without a kill, median run":                                 false, // 16 of 15
		"switchover, 100 busy: gap beyond that without one, median run":                                 true,  // 10, the limit itself
		"kill -9, 10000 idle and 100 busy: gap of the busy ones beyond that without a kill, median run": false,
		"active frozen, 100 busy: longest gap, failure_timeout 100ms + 30 ms":                           true,
		"kill -9, 100 busy: connections lost, worst run":                                                true,
		"kill -9, 10000 idle and 100 busy: idle ones not usable afterwards, worst run":                  false,
		"memory per idle connection on the standby":                                                     true,
	}
	measured := 0
	for _, v := range judge(s, offloadOff, all) {
		if v.Value == nil {
			continue
		}
		measured++
		pass, ok := want[v.Title]
		if !ok {
			t.Errorf("%s: not expected to be measured", v.Title)
		} else if pass != v.Pass {
			t.Errorf("%s: pass %v with %v", v.Title, v.Pass, *v.Value)
		}
	}
	if measured != len(want) {
		t.Errorf("%d targets judged, want %d", measured, len(want))
	}
	for _, v := range judge(s, offloadOn, all) {
		if v.Value != nil {
			t.Errorf("%s: the other mode's figures count", v.Title)
		}
	}
}

// Every figure that a target looks at must exist, and every ID must be unique.
func TestFigureIDs(t *testing.T) {
	seen := make(map[string]bool)
	for _, f := range append(throughputFigures(), failoverFigures(100, 10000)...) {
		if seen[f.ID] {
			t.Errorf("figure %q twice", f.ID)
		}
		seen[f.ID] = true
	}
	b := &bench{options: options{rounds: 1, runs: 1, connections: 10, busy: 30, modes: []mode{offloadOff}}}
	for _, k := range kinds {
		for _, s := range b.steps(0, offloadOff, k) {
			for _, id := range s.ids {
				if !seen[id] {
					t.Errorf("a step of %s yields %q, which is no figure", k, id)
				}
			}
		}
	}
	steps := []step{b.crowdStep(), b.restStep(), b.soloStep(), b.frozenStep()}
	for _, l := range b.levels() {
		steps = append(steps, b.quietStep(l), b.failStep(l), b.switchStep(l))
	}
	for _, s := range steps {
		for _, id := range s.ids {
			if !seen[id] {
				t.Errorf("a failover yields %q, which is no figure", id)
			}
		}
	}
}
