package tun

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"
)

// OpenQueues is Open of a device with n queues, each of which is read and written by itself. The kernel puts a
// packet into the queue by which something of the same flow was last written, or, of a flow of which nothing was in the last three
// seconds, into one by the flow's hash. The first Device's Close closes all.
func OpenQueues(name string, mtu, n int) ([]Device, error) {
	if n == 1 {
		d, err := Open(name, mtu)
		return []Device{d}, err
	}
	var wg wgtun.Device
	// A device that is there already is somebody's, of which this must not become another queue.
	file, err := openQueue(name, unix.IFF_TUN_EXCL)
	for end := time.Now().Add(keptFor); errors.Is(err, unix.EBUSY) && time.Now().Before(end); {
		time.Sleep(keptPause)
		file, err = openQueue(name, unix.IFF_TUN_EXCL)
	}
	if err == nil {
		if wg, err = wgtun.CreateTUNFromFile(file, mtu); err != nil {
			_ = file.Close()
		}
	}
	first, err := open(wg, err, name)
	if err != nil {
		return nil, err
	}
	all := []Device{first}
	for range n - 1 {
		q := &nativeDevice{name: first.name, mtu: first.mtu}
		if q.file, err = openQueue(first.name, 0); err == nil {
			first.queues = append(first.queues, q)
			err = q.access()
		}
		if err != nil {
			first.Close()
			return nil, fmt.Errorf("open queue %d of tun %q: %w", len(all)+1, name, err)
		}
		all = append(all, q)
	}
	return all, nil
}

// openQueue makes a device, or, unless IFF_TUN_EXCL is among flags, another queue of one that is there.
func openQueue(name string, flags uint16) (*os.File, error) {
	const path = "/dev/net/tun"
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE | flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}
