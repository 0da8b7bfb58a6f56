package carry

import (
	"testing"
	"time"
)

// What a peer sent before its reset is not thrown away because this process was stopped meanwhile: the receiver has its time
// again. One that acknowledges nothing, or too slowly, has had it all the same.
func TestDrainingThroughAPause(t *testing.T) {
	const step = time.Second
	late := func(pauses int, acks bool) time.Duration {
		var d Draining
		now, acked := time.Hour, uint64(0)
		begun := now
		d.Begin(now)
		for i := range 1000 {
			if now += step; i < pauses {
				now += time.Minute
				begun += time.Minute + step // none of its time
			}
			if acks {
				acked++
			}
			if d.Late(now, acked, 0) {
				return now - begun
			}
		}
		t.Fatal("never late")
		return 0
	}
	for pauses := range drainPauses + 1 {
		if got := late(pauses, false); got != drainSilent+step {
			t.Errorf("%d pauses: silent for %v", pauses, got)
		}
		if got := late(pauses, true); got <= drainMax-time.Duration(pauses)*step || got > drainMax+step {
			t.Errorf("%d pauses: %v in all", pauses, got)
		}
	}
	if got := late(10*drainPauses, false); got > drainSilent {
		t.Errorf("it is waited for as long as there are pauses: %v", got)
	}
}
