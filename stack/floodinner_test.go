package stack

import (
	"net/netip"
	"testing"
)

// A flood is where thousands of cookies are not answered, more than are, and nowhere else; it is
// looked at anew each time.
func TestFlooded(t *testing.T) {
	a, b, c := netip.MustParseAddrPort("203.0.113.10:80"), netip.MustParseAddrPort("203.0.113.10:81"), netip.MustParseAddrPort("[2001:db8::10]:80")
	e := &Engine{}
	e.listeners = map[netip.AddrPort]*listener{a: {}, b: {}, c: {}}
	type cookies struct{ asked, answered int }
	for i, x := range []struct {
		a, b, c cookies
		want    []netip.AddrPort
	}{
		{cookies{5 * floodRate, 0}, cookies{}, cookies{}, nil}, // their answers may be on their way
		{cookies{floodRate - 1, 0}, cookies{}, cookies{}, nil},
		{cookies{floodRate, 0}, cookies{}, cookies{}, []netip.AddrPort{a}},
		{cookies{1, 0}, cookies{1, 0}, cookies{1, 0}, nil}, // not by what was before
		{cookies{floodRate / 2, 0}, cookies{3, 0}, cookies{floodRate / 2, 0}, []netip.AddrPort{a, c}},
		{cookies{floodRate, 0}, cookies{1, 0}, cookies{1, floodRate}, []netip.AddrPort{a}}, // whoever answers takes nothing from another's flood
		{cookies{1, 2}, cookies{5 * floodRate, 0}, cookies{}, []netip.AddrPort{b}},
		{cookies{6 * floodRate, 5 * floodRate}, cookies{1, 0}, cookies{}, nil}, // most are clients
		{cookies{2 * floodRate, floodRate - 1}, cookies{1, 0}, cookies{}, []netip.AddrPort{a}},
		{cookies{}, cookies{}, cookies{}, nil},
		{cookies{5 * floodRate, 0}, cookies{}, cookies{}, nil}, // a new crowd
	} {
		for addr, k := range map[netip.AddrPort]cookies{a: x.a, b: x.b, c: x.c} {
			e.listeners[addr].asked, e.listeners[addr].answered = k.asked, k.answered
		}
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
