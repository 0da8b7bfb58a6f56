package storm

import (
	"io"
	"os"
	"testing"
	"time"

	"lockstep/internal/lab/traffic"
)

// A wait for a CPU is told when it is long, once, whichever of a process's threads had it; the time in
// which a process sleeps, or gets its CPUs by turns, is none.
func TestHunger(t *testing.T) {
	if len(runDelays(os.Getpid())) == 0 {
		t.Error("the kernel does not tell how long this process had to wait")
	}
	var told []string
	delays := map[string]time.Duration{"main": 0, "other": 0}
	h := &hunger{procs: func() map[string]int { return map[string]int{"a": 1} }, last: map[string]map[string]time.Duration{}, waits: map[string]time.Duration{}}
	var dropped, lost uint64
	h.backlog, h.loses = func() uint64 { return dropped }, func(n uint64) { lost += n }
	h.delays = func(int) map[string]time.Duration {
		now := map[string]time.Duration{}
		for id, d := range delays {
			now[id] = d
		}
		return now
	}
	h.starves = func(name string, d time.Duration, more bool) {
		if told = append(told, name+" "+d.String()); more {
			told = append(told, "more")
		}
	}
	now := time.Now()
	look := func(thread string, waited time.Duration) {
		delays[thread] += waited
		now = now.Add(sampleEvery)
		h.look(now)
	}
	look("main", 0)
	for range 20 {
		look("main", sampleEvery/2)
	}
	look("other", 400*time.Millisecond)
	if look("main", 0); len(told) != 0 {
		t.Errorf("told of %v", told)
	}
	look("other", 700*time.Millisecond)
	look("main", sampleEvery)
	if look("main", 0); len(told) != 3 || told[0] != "a 700ms" || told[1] != "a 800ms" || told[2] != "more" {
		t.Errorf("told of %v", told)
	}
	for range 3 {
		if look("main", 0); lost != dropped {
			t.Errorf("%d packets are lost, the kernel says %d", lost, dropped)
		}
		dropped += 2
	}
}

// A connection that stands still while the machine starves has until 5 s after that, but not for ever.
func TestStarvedLooks(t *testing.T) {
	s := &storm{view: newView(io.Discard)}
	l := &load{storm: s, flights: map[*flight]struct{}{}, server: traffic.NewServer(0, nil)}
	s.load = l
	l.flights[&flight{client: &traffic.Client{}}] = struct{}{}
	looks := func(n int) (f *finding) {
		for range n {
			if g := l.look(time.Now()); g != nil {
				f = g
			}
		}
		return f
	}
	l.ends()
	if f := looks(stillLooks - 1); f != nil {
		t.Fatalf("found too early: %+v", f)
	}
	s.starves("a", time.Second, false)
	if f := looks(stillLooks - 1); f != nil || l.waiting() != 1 {
		t.Fatalf("found within 5 s of the starvation's end: %+v, %d are waited for", f, l.waiting())
	}
	if f := looks(1); f == nil || s.starved.Times != 1 || s.starved.LongestMS != 1000 || s.hungry() == "" {
		t.Errorf("found %+v; %+v", f, s.starved)
	}
	for f := range l.flights {
		f.still = stillLooks - 2
	}
	s.loses(3)
	if f := looks(2); f != nil || s.starved.Times != 1 || s.starved.Dropped != 3 {
		t.Errorf("found %+v where the machine has lost packets; %+v", f, s.starved)
	}
	for f := range l.flights {
		f.looks, f.still = 0, 0
	}
	for n := 1; n < starvedLooks; n++ {
		s.starves("a", time.Second, true)
		if f := looks(1); f != nil {
			t.Fatalf("found at look %d", n)
		}
	}
	s.starves("a", time.Second, true)
	if f := looks(1); f == nil || l.waiting() != 0 {
		t.Errorf("not found on a machine that starves all the time; %d are waited for", l.waiting())
	}
}
