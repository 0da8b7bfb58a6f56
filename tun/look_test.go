package tun

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// What the kernel has brought shows as waiting, then in the reader's hands, then as done; what finds no room is counted, of
// whichever queue; and an empty queue has nothing of what came before.
func TestLook(t *testing.T) {
	s := newSite(t)
	all := in(s.gw, func() ([]Device, error) { return OpenQueues(tunName, 1500, 2) })
	t.Cleanup(func() { all[0].Close() })
	r := in(s.gw, func() (*Routes, error) { return InstallRoutes(testConfig()) })
	t.Cleanup(func() { r.Close() })
	fd := in(s.gw, func() (int, error) { return unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) })
	t.Cleanup(func() { unix.Close(fd) })
	send := func(n int) {
		t.Helper()
		to := netip.MustParseAddr("203.0.113.10") // virtual: routed into the device
		for range n {
			if err := unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Addr: to.As4(), Port: 9}); err != nil {
				t.Fatal(err)
			}
		}
	}
	before, length, err := r.Queue()
	if err != nil || length != tunQueueLen {
		t.Fatalf("a queue of %d: %v", length, err)
	}
	send(1)
	at := -1
	for i, q := range all {
		if l := q.Look(); l.Waiting {
			at = i
		} else if !l.TakenSince(Look{}, length) {
			t.Errorf("queue %d: %+v", i, l)
		}
	}
	if at < 0 {
		t.Fatal("waits nowhere")
	}
	q := all[at]
	sent := q.Look()
	if sent.Turns != 0 || sent.TakenSince(sent, length) {
		t.Errorf("not read, and taken: %+v", sent)
	}
	hdr, buf := make([]byte, VnetHeaderLen), make([]byte, MaxPacketLen)
	read := func() {
		t.Helper()
		if _, err := q.ReadV([][]byte{hdr, buf}); err != nil {
			t.Fatal(err)
		}
	}
	read()
	if l := q.Look(); l.Turns%2 == 0 || l.Done != 0 || l.TakenSince(sent, length) {
		t.Errorf("in the reader's hands, and done: %+v", l)
	}
	idle := make(chan struct{}, 1)
	q.OnIdle(func() { idle <- struct{}{} })
	ended := make(chan error, 1)
	go func() {
		_, err := q.ReadV([][]byte{hdr, buf})
		ended <- err
	}()
	<-idle
	for l := q.Look(); !l.TakenSince(sent, length); l = q.Look() {
	}
	if l := q.Look(); l.Done != 1 {
		t.Errorf("%+v", l)
	}
	send(int(length) + 500)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if now, _, err := r.Queue(); err != nil || now-before < 400 {
		t.Errorf("dropped %d of 500 too many: %v", now-before, err)
	}
	if err := all[0].Close(); err != nil {
		t.Error(err)
	}
	if _, _, err := r.Queue(); err == nil {
		t.Error("the counters of a device that is gone")
	}
	q.Look() // of a closed queue: no harm
}
