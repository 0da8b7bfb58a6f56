package appliance

import (
	"testing"
	"time"
)

// A peer is dead after several timely looks at its silence, however it began; a
// stall of our own begins the count anew.
func TestSilenceJudge(t *testing.T) {
	var s silenceJudge
	at := time.Second
	look := func(after time.Duration, silent bool) bool {
		at += after
		return s.judge(silent, at)
	}
	look(50*time.Millisecond, false)
	for i := range silentLooks {
		after := silentPause
		if i == 0 {
			after = 50 * time.Millisecond // the regular look that finds the silence
		}
		if dead := look(after, true); dead != (i == silentLooks-1) {
			t.Fatalf("look %d: dead=%v", i, dead)
		}
	}
	s = silenceJudge{}
	look(time.Millisecond, true)
	look(silentPause, true)
	if look(300*time.Millisecond, true) {
		t.Fatal("dead right after a stall of our own")
	}
	if look(silentPause, false) || s.looks != 0 {
		t.Fatal("a frame that was waiting did not end the silence")
	}
}
