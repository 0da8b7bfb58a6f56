package tuntest

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"lockstep/tun"
)

func TestPipe(t *testing.T) {
	a, b := PipeSize(9000, 2)
	hdr := tun.VnetHeader{GSOType: tun.GSOTCPv4, GSOSize: 1448}
	h := make([]byte, tun.VnetHeaderLen)
	hdr.Encode(h)
	for i := range 3 {
		if err := a.WriteV([][]byte{h, {byte(i)}, {1, 2, 3}}); err != nil {
			t.Fatal(err)
		}
	}
	if a.Dropped() != 1 {
		t.Fatalf("dropped %d, want 1", a.Dropped())
	}
	for i := range 2 {
		got, p1, p2 := make([]byte, tun.VnetHeaderLen), make([]byte, 2), make([]byte, 10)
		n, err := b.ReadV([][]byte{got, p1, p2})
		if err != nil || n != 4 || !bytes.Equal(got, h) || !bytes.Equal(p1, []byte{byte(i), 1}) || !bytes.Equal(p2[:2], []byte{2, 3}) {
			t.Fatalf("read %d %v: % x % x % x", n, err, got, p1, p2)
		}
	}
	read := make(chan error, 1)
	go func() {
		_, err := b.ReadV([][]byte{make([]byte, tun.VnetHeaderLen), make([]byte, 10)})
		read <- err
	}()
	b.Close()
	if err := <-read; !errors.Is(err, os.ErrClosed) {
		t.Fatalf("reader got %v", err)
	}
	if err := a.WriteV([][]byte{h, {1}}); err != nil || a.Dropped() != 2 {
		t.Fatalf("write to a closed end: %v, dropped %d", err, a.Dropped())
	}
	a.Close()
	if err := a.WriteV([][]byte{h, {1}}); !errors.Is(err, os.ErrClosed) {
		t.Fatalf("write after Close: %v", err)
	}
}
