package lab_test

import (
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lockstep/internal/lab"
	"lockstep/internal/lab/labtest"
)

// What a machine sends on its tap reaches the others on the network; the host itself has no part in it.
func TestTap(t *testing.T) {
	l := labtest.New(t, lab.Options{})
	n, err := l.Network("net", lab.NetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	carrier, err := l.Host("carrier")
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.Host("other")
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []*lab.Host{carrier, other} {
		if _, err := h.Attach(n, "eth0", "10.0.0."+map[string]string{"carrier": "1/24", "other": "2/24"}[h.Name()]); err != nil {
			t.Fatal(err)
		}
	}
	name, err := carrier.Tap("eth0")
	if err != nil {
		t.Fatal(err)
	}
	eth0, err := carrier.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if addrs, err := carrier.Netlink().AddrList(eth0, netlink.FAMILY_ALL); err != nil || len(addrs) > 0 {
		t.Errorf("the host still has %v, %v", addrs, err)
	}
	// The machine: a frame of a type that nobody uses, from the tap to everybody.
	var tap *os.File
	err = carrier.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		tap = os.NewFile(uintptr(fd), "tap")
		req, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	listener := -1
	err = other.Do(func() (err error) {
		listener, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0xb588) // 0x88b5, in network order
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(listener)
	frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0, 0, 1, 0x88, 0xb5}, make([]byte, 46)...)
	labtest.Eventually(t, 30*time.Second, "the machine's frame is heard", func() bool {
		if _, err := tap.Write(frame); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 100)
		k, _, err := unix.Recvfrom(listener, got, 0)
		return err == nil && k == len(frame) && got[11] == 1
	})
}
