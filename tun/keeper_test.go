package tun

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// A keeper that had no CPU until its time was over has not seen what lies in the queues: it empties them all the same.
func TestLateKeeperEmptiesTheQueues(t *testing.T) {
	s := &tunnelSender{fd: -1} // what it sends fails, and the next may pass
	s.to(1, make([]byte, 6), make([]byte, 6))
	var queues []unix.PollFd
	for range 2 {
		ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(ends[0])
		defer unix.Close(ends[1])
		for range 3 {
			if _, err := unix.Write(ends[0], make([]byte, VnetHeaderLen+40)); err != nil {
				t.Fatal(err)
			}
		}
		queues = append(queues, unix.PollFd{Fd: int32(ends[1]), Events: unix.POLLIN})
	}
	buf := make([]byte, VnetHeaderLen+MaxPacketLen)
	s.drain(queues, buf, 0)
	for i, q := range queues {
		if n, err := unix.Read(int(q.Fd), buf); !errors.Is(err, unix.EAGAIN) {
			t.Errorf("queue %d still has a packet (%d bytes, %v)", i, n, err)
		}
	}
}
