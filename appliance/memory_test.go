package appliance

import (
	"math"
	"runtime/metrics"
	"testing"

	"lockstep/appliance/config"
)

// The collector's limit follows limits.memory, and what is in use where that is more:
// it is never so close that collecting would not end.
func TestHeapLimit(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		memory config.Size
		live   uint64
		want   int64
	}{
		{64 * mib, 10 * mib, 112 * mib},
		{64 * mib, 64 * mib, 112 * mib},
		{64 * mib, 400 * mib, 532 * mib}, // many idle connections
		{1 << 60, 0, 1<<60 + 1<<58 + heapBase},
		{0, math.MaxUint64 / 2, math.MaxInt64},
	} {
		if got := heapLimit(c.memory, c.live); got != c.want {
			t.Errorf("%v, %d in use: %d, want %d", c.memory, c.live, got, c.want)
		}
	}
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	if metrics.Read(s); s[0].Value.Kind() != metrics.KindUint64 {
		t.Errorf("the runtime does not tell what is in use: %v", s[0].Value.Kind())
	}
	if p := payloadLimit(64 * mib); memoryOf(p) > 64*mib || memoryOf(p) < 63*mib {
		t.Errorf("%d bytes of payload take %d", p, memoryOf(p))
	}
}
