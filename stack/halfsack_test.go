package stack

import (
	stdslices "slices"
	"testing"
)

// Ranges that touch become one, the newest comes first, and no more are kept than netstack keeps bytes for.
func TestLieAhead(t *testing.T) {
	l := &Leg{engine: &Engine{}}
	l.engine.window = 1000
	for _, x := range []struct {
		from, to uint64
		want     []offsets
	}{
		{100, 200, []offsets{{100, 200}}},
		{300, 400, []offsets{{300, 400}, {100, 200}}},
		{100, 150, []offsets{{100, 200}, {300, 400}}},
		{200, 300, []offsets{{100, 400}}},
		{500, 600, []offsets{{500, 600}, {100, 400}}},
		{700, 801, []offsets{{500, 600}, {100, 400}}}, // 501 bytes
		{600, 701, []offsets{{500, 600}, {100, 400}}}, // what it touches is reported as before
		{400, 950, []offsets{{500, 600}, {100, 400}}},
		{700, 800, []offsets{{700, 800}, {500, 600}, {100, 400}}},
	} {
		if l.lieAhead(offsets{x.from, x.to}); !stdslices.Equal(l.ahead, x.want) {
			t.Errorf("%d to %d: %v, want %v", x.from, x.to, l.ahead, x.want)
		}
	}
	l.ahead, l.engine.window = nil, 1<<20
	for i := range uint64(2 * maxAhead) {
		l.lieAhead(offsets{10 * i, 10*i + 1})
	}
	if len(l.ahead) != maxAhead || l.ahead[0].from != 10*(maxAhead-1) {
		t.Errorf("%d ranges, the newest at %d", len(l.ahead), l.ahead[0].from)
	}
}
