package eval

import (
	"testing"
	"time"

	"lockstep/appliance/control"
	"lockstep/internal/lab/traffic"
)

// A pause is what the fault made it: not of a failover of servers that came after an appliance had taken over.
func TestPartsAreTheFaults(t *testing.T) {
	at := time.Now()
	e := episode{at: at, result: traffic.Result{Downs: []traffic.Gap{{At: at, Longest: 20 * time.Millisecond}}}}
	e.status.LastTakeover = &control.Takeover{At: at.Add(3 * time.Millisecond), DurationMicros: 10_000}
	e.status.Services = []control.Service{{Name: "port84", Kept: &control.Kept{Failovers: 1, LastAt: at.Add(40 * time.Millisecond), LastMicros: 1000}}}
	want := func(f fault, parts map[string]float64) {
		t.Helper()
		for _, s := range e.parts("x", 0, f, hot) {
			if w := parts[s.Part]; s.Y != w {
				t.Errorf("%s, %s: %v, want %v", f.name, s.Part, s.Y, w)
			}
		}
	}
	want(activeKilled, map[string]float64{partKnown: 3, partRebuild: 10, partRest: 7, partGap: 20})
	e.status.Services[0].Kept.LastAt = at.Add(6 * time.Millisecond)
	want(serverKilled, map[string]float64{partKnown: 5, partRebuild: 1, partRest: 14, partGap: 20})
}
