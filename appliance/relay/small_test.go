package relay

import (
	"testing"
	"unsafe"
)

// There may be a million of them. The allocator's next classes are 256, 288 and 320 bytes.
func TestConnIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(Conn{}); n > 256 {
		t.Errorf("a connection takes %d bytes", n)
	}
}
