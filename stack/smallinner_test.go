package stack

import (
	"net/netip"
	"testing"
	"unsafe"
)

// There may be a million that are passed on. The allocator's next classes are 448, 480 and 512 bytes.
func TestSplicedIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(Spliced{}); n > 448 {
		t.Errorf("a connection that is passed on takes %d bytes", n)
	}
}

// Flows of IPv4, of IPv6 and of IPv4 in IPv6's form are told apart where they differ, and found where they do not.
func TestByFlow(t *testing.T) {
	var m byFlow[int]
	flows := []flow{}
	for _, a := range []string{"192.0.2.1", "192.0.2.2", "2001:db8::1", "::192.0.2.1", "::fffe:192.0.2.1", "64:ff9b::192.0.2.1"} {
		for _, b := range []string{"198.51.100.1", "2001:db8::1", "::198.51.100.1"} {
			for _, port := range []uint16{80, 81} {
				flows = append(flows, flowOf(netip.AddrPortFrom(netip.MustParseAddr(a), port), netip.AddrPortFrom(netip.MustParseAddr(b), 9)))
			}
		}
	}
	for i := range flows {
		if _, ok := m.get(&flows[i]); ok {
			t.Fatalf("%+v is there before it is put there", flows[i])
		}
		m.set(&flows[i], i)
	}
	for i := range flows {
		if got, ok := m.get(&flows[i]); !ok || got != i {
			t.Errorf("%+v: got %d", flows[i], got)
		}
	}
	if len(m.v4) != 4 || m.len() != len(flows) {
		t.Errorf("%d flows, of which %d of IPv4", m.len(), len(m.v4))
	}
	for i := range flows {
		m.delete(&flows[i])
	}
	if m.len() != 0 {
		t.Errorf("%d are left", m.len())
	}
}

// Two for each connection that is ended here, parked or not. The allocator's next classes are 768, 896 and 1024 bytes.
func TestLegIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(Leg{}); n > 768 {
		t.Errorf("a leg takes %d bytes", n)
	}
}
