package health

import (
	"context"
	"net"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel has no call that asks a peer whether a connection is there. A socket that
// leaves the repair mode (TCP_REPAIR, made for moving sockets between machines) does so at
// once: it sends a segment from before the peer's window, which is answered with an ACK
// (RFC 9293, 3.10.7.4), and sets SND.WL1 to one below RCV.NXT, which the answer raises to
// its own sequence number. That is RCV.NXT if the peer's socket is as it was, and more if
// it has sent a FIN that has not arrived.

// repairWindow is struct tcp_repair_window of linux/tcp.h.
type repairWindow struct{ sndWL1, sndWnd, maxWindow, rcvWnd, rcvWup uint32 }

const (
	repairOn        = 1
	repairOff       = 0
	repairOffSilent = -1 // TCP_REPAIR_OFF_NO_WP: nothing is sent
	receiveQueue    = 1  // TCP_RECV_QUEUE
	established     = 1  // TCP_ESTABLISHED
)

// answerLook is how often it is looked whether an answer has come.
const answerLook = time.Millisecond

// answers asks the peer of an idle TCP connection whether its socket is there, and reports
// whether it has said so. Without CAP_NET_ADMIN nobody is asked.
func answers(ctx context.Context, conn net.Conn) bool {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	asked, from, _ := lookAt(raw, repairOff)
	for over := false; asked && !over; {
		select {
		case <-ctx.Done():
			over = true // a last look: after a pause of ours the answer has come long ago
		case <-time.After(answerLook):
		}
		open, next, wl1 := lookAt(raw, repairOffSilent)
		switch {
		case !open, next != from: // what came may have been sent before the question
			return false
		case wl1 == from:
			return true
		}
	}
	return false
}

// lookAt says how far an established connection's peer is (RCV.NXT), and which sequence
// number it was last heard with (SND.WL1). leave is how the repair mode ends.
func lookAt(raw syscall.RawConn, leave int) (open bool, next, wl1 uint32) {
	err := raw.Control(func(fd uintptr) {
		s := int(fd)
		if setRepair(s) != nil {
			return
		}
		var w repairWindow
		size := uint32(unsafe.Sizeof(w))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_WINDOW,
			uintptr(unsafe.Pointer(&w)), uintptr(unsafe.Pointer(&size)), 0)
		queue := unix.SetsockoptInt(s, unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, receiveQueue)
		seq, seqErr := unix.GetsockoptInt(s, unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ)
		off := unix.SetsockoptInt(s, unix.IPPROTO_TCP, unix.TCP_REPAIR, leave)
		info, infoErr := unix.GetsockoptTCPInfo(s, unix.IPPROTO_TCP, unix.TCP_INFO)
		open = errno == 0 && queue == nil && seqErr == nil && off == nil && infoErr == nil && info.State == established
		next, wl1 = uint32(seq), w.sndWL1
	})
	return open && err == nil, next, wl1
}

func setRepair(s int) error {
	return unix.SetsockoptInt(s, unix.IPPROTO_TCP, unix.TCP_REPAIR, repairOn)
}
