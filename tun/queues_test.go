package tun

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The kernel brings a flow to the queue that something of it was last written to; the device goes with the first queue.
func TestQueues(t *testing.T) {
	n := newNS(t)
	all := in(n, func() ([]Device, error) { return OpenQueues("queues", 1500, 2) })
	t.Cleanup(func() { all[0].Close() })
	n.run(func() error {
		if err := n.up("queues"); err != nil {
			return err
		}
		return n.addr("queues", "10.9.0.1/24")
	})
	fd := in(n, func() (int, error) { return unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) })
	t.Cleanup(func() { unix.Close(fd) })
	peer := netip.MustParseAddr("10.9.0.2")
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: peer.As4(), Port: 9}); err != nil {
		t.Fatal(err)
	}
	got := make(chan int, 100) // the queue by which a packet of ours came
	packet := make(chan []byte, 100)
	for i, q := range all {
		go func() {
			hdr, buf := make([]byte, VnetHeaderLen), make([]byte, MaxPacketLen)
			for {
				k, err := q.ReadV([][]byte{hdr, buf})
				if err != nil {
					return
				}
				if buf[0] == 0x45 && buf[9] == unix.IPPROTO_UDP {
					packet <- append([]byte(nil), buf[:k]...)
					got <- i
				}
			}
		}()
	}
	say := func() ([]byte, int) {
		t.Helper()
		if _, err := unix.Write(fd, []byte("x")); err != nil {
			t.Fatal(err)
		}
		return <-packet, <-got
	}
	b, _ := say()
	answer := append([]byte(nil), b...)
	copy(answer[12:16], b[16:20])
	copy(answer[16:20], b[12:16])
	copy(answer[20:22], b[22:24])
	copy(answer[22:24], b[20:22]) // a sum does not mind
	for _, want := range []int{0, 1, 0} {
		if err := all[want].WriteV([][]byte{make([]byte, VnetHeaderLen), answer}); err != nil {
			t.Fatal(err)
		}
		if _, queue := say(); queue != want {
			t.Errorf("came by queue %d, want %d", queue, want)
		}
	}
	if err := all[0].Close(); err != nil {
		t.Error(err)
	}
	n.run(func() error {
		if _, err := netlink.LinkByName("queues"); err == nil {
			t.Error("the device is still there")
		}
		return nil
	})
}

// A device of several queues has no queue of the kernel's before them, and nobody else becomes a reader of it: neither another
// appliance nor, while a Keeper has it, its own successor.
func TestQueuesAreOurs(t *testing.T) {
	s := newSite(t)
	all := in(s.gw, func() ([]Device, error) { return OpenQueues(tunName, 1500, 2) })
	t.Cleanup(func() { all[0].Close() })
	r := in(s.gw, func() (*Routes, error) { return InstallRoutes(testConfig()) })
	t.Cleanup(func() { r.Close() })
	s.gw.run(func() error {
		l, err := netlink.LinkByName(tunName)
		if err != nil {
			return err
		}
		disciplines, err := netlink.QdiscList(l)
		for _, q := range disciplines {
			if q.Type() != "noqueue" {
				t.Errorf("queueing discipline %s of %d", q.Type(), len(disciplines))
				break
			}
		}
		return err
	})
	s.gw.run(func() error {
		for n, want := range map[int]error{1: unix.EINVAL, 2: unix.EBUSY} {
			if _, err := OpenQueues(tunName, 1500, n); !errors.Is(err, want) {
				t.Errorf("opened again with %d queues: %v, want %v", n, err, want)
			}
		}
		return nil
	})
}
