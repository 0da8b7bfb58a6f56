package stack

import (
	"net/netip"
	"testing"
)

// A flood is where thousands of cookies are not answered, and nowhere else; it is looked
// at anew each time.
func TestFlooded(t *testing.T) {
	a, b, c := netip.MustParseAddrPort("203.0.113.10:80"), netip.MustParseAddrPort("203.0.113.10:81"), netip.MustParseAddrPort("[2001:db8::10]:80")
	e := &Engine{}
	e.listeners = map[netip.AddrPort]*listener{a: {}, b: {}, c: {}}
	for i, x := range []struct {
		a, b, c int // unanswered
		want    []netip.AddrPort
	}{
		{floodRate - 1, 0, 0, nil},
		{floodRate, 0, 0, []netip.AddrPort{a}},
		{0, 0, 0, nil}, // not by what was before
		{floodRate / 2, 3, floodRate / 2, []netip.AddrPort{a, c}},
		{floodRate, 0, -floodRate, []netip.AddrPort{a}}, // whoever answers takes nothing from another's flood
		{-1, 5 * floodRate, 0, []netip.AddrPort{b}},
	} {
		e.listeners[a].unanswered, e.listeners[b].unanswered, e.listeners[c].unanswered = x.a, x.b, x.c
		got := e.flooded()
		left := map[netip.AddrPort]bool{}
		for _, addr := range got {
			left[addr] = true
		}
		for _, addr := range x.want {
			delete(left, addr)
		}
		if len(got) != len(x.want) || len(left) > 0 {
			t.Errorf("%d: flooded are %v, want %v", i, got, x.want)
		}
	}
}
