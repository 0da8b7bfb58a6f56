//go:build !race

package tun

import (
	"net"
	"testing"
)

// Not with the race detector, which makes sync.Pool forget at random; make test runs it without.
func TestReadWriteDoNotAllocate(t *testing.T) {
	n := newNS(t)
	d := openTUN(t, n, "ls0", 1500, "10.9.0.1/24")
	c := in(n, func() (net.Conn, error) { return net.Dial("udp", "10.9.0.2:9") })
	defer c.Close()
	payload := make([]byte, 100)
	hdr, buf := make([]byte, VnetHeaderLen), make([]byte, MaxPacketLen)
	bufs := [][]byte{hdr, buf}
	back := make([][]byte, 2)
	allocs := testing.AllocsPerRun(200, func() {
		if _, err := c.Write(payload); err != nil {
			t.Fatal(err)
		}
		n, err := d.ReadV(bufs)
		if err != nil {
			t.Fatal(err)
		}
		back[0], back[1] = hdr, buf[:n]
		if err := d.WriteV(back); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Fatalf("%v allocations per packet", allocs)
	}
}
