package stack

import "testing"

// A part that lies far behind the end makes up for none that is missing before it.
func TestFragmentsWithAHole(t *testing.T) {
	f := &fragmented{}
	if !f.add(800, make([]byte, 8), true) || !f.add(0, make([]byte, 8), true) {
		t.Fatal("parts are refused")
	}
	if f.add(16, make([]byte, 8), false) { // three units with it, the second of them missing
		t.Fatalf("the end is taken at %d, before what is here already", f.size)
	}
}
