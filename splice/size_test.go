package splice

import (
	"testing"
	"unsafe"
)

// A million idle connections are a million of these.
func TestSize(t *testing.T) {
	if n := unsafe.Sizeof(Conn{}); n > 320 {
		t.Errorf("a Conn takes %d bytes", n)
	}
}
