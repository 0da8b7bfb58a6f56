// Package confine takes from this process, once it has made what it needs, the rights
// that it does not need any more.
//
// It must not know what the process does.
package confine

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrUnsupported: this build runs C code, whose threads the Go runtime does not reach.
var ErrUnsupported = errors.New("confine: not possible in a build with cgo")

// Keep gives up every capability but these, on all threads and for good, for programs
// that it might start, too: it also sets no_new_privs (prctl(2)). Capabilities that the
// process does not have are not gained.
func Keep(capabilities ...int) error {
	var keep uint64
	for _, c := range capabilities {
		keep |= 1 << c
	}
	if err := allThreads("set no_new_privs", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return err
	}
	// Before the capabilities go, among them that to do this. Not having it does no harm:
	// without new privileges the bounding set bounds nothing that we could get.
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if keep&(1<<c) == 0 {
			_ = allThreads("", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0)
		}
	}
	_ = allThreads("", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0)
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	for i := range data {
		data[i].Permitted &= uint32(keep >> (32 * i))
		data[i].Effective = data[i].Permitted
		data[i].Inheritable = 0
	}
	// The conversions belong into this call: only so the two stay where they are.
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&data[0])), 0)
	return told("give up capabilities", errno)
}

// Has reports whether this thread may use a capability.
func Has(capability int) bool {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&head, &data[0]) == nil && data[capability/32].Effective&(1<<(capability%32)) != 0
}

func allThreads(what string, trap, a1, a2, a3 uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall(trap, a1, a2, a3)
	return told(what, errno)
}

func told(what string, errno syscall.Errno) error {
	switch errno {
	case 0:
		return nil
	case syscall.ENOTSUP:
		return ErrUnsupported
	default:
		return fmt.Errorf("%s: %w", what, errno)
	}
}
