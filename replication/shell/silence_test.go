package shell

import (
	"testing"

	"lockstep/replication"
)

// A peer is dead after several timely looks at its silence, however it began; a
// stall of our own begins the count anew.
func TestSilence(t *testing.T) {
	const ms = 1_000_000
	var s silence
	at := replication.Nanos(1000 * ms)
	look := func(after replication.Nanos, silent bool) bool {
		at += after
		return s.judge(silent, at)
	}
	look(50*ms, false)
	for i := range looks {
		after := replication.Nanos(pause)
		if i == 0 {
			after = 50 * ms // the regular look that finds the silence
		}
		if dead := look(after, true); dead != (i == looks-1) {
			t.Fatalf("look %d: dead=%v", i, dead)
		}
	}
	s = silence{}
	look(ms, true)
	look(pause, true)
	if look(300*ms, true) {
		t.Fatal("dead right after a stall of our own")
	}
	if look(pause, false) || s.looks != 0 {
		t.Fatal("a frame that was waiting did not end the silence")
	}
}
