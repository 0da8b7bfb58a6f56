package carry

import (
	"bytes"
	"testing"
)

// After gives the bytes that follow, wherever the slices are cut.
func TestAfter(t *testing.T) {
	bufs := [][]byte{[]byte("abc"), {}, []byte("defg"), []byte("h")}
	whole := "abcdefgh"
	for skip := range len(whole) + 1 {
		rest, n := After(bufs, skip)
		if got := string(bytes.Join(rest, nil)); got != whole[skip:] || n != len(got) {
			t.Errorf("after %d: %q, %d bytes", skip, got, n)
		}
	}
}
