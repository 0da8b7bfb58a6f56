//go:build amd64

package trace

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Condition is an argument that must (any of Bits set in it, or none) hold for a call to stop.
type Condition struct {
	Arg  int
	Bits uint32
	None bool // none of Bits
}

// Calls are those that stop, each with its conditions, of which all must hold.
type Calls map[uint32][]Condition

// Offsets in struct seccomp_data.
const (
	dataNr   = 0
	dataArch = 4
	dataArgs = 16
	x32Bit   = 0x40000000 // __X32_SYSCALL_BIT
)

func stmt(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }
func jump(code uint16, k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: code, Jt: yes, Jf: no, K: k}
}

const (
	load = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	jeq  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	jset = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
	ret  = unix.BPF_RET | unix.BPF_K

	deny = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
)

// filter is the program: calls of another machine's kind do not exist, refused do not either, calls stop, all else passes.
func filter(calls Calls, refused []uint32) []unix.SockFilter {
	f := []unix.SockFilter{
		stmt(load, dataArch),
		jump(jeq, unix.AUDIT_ARCH_X86_64, 1, 0),
		stmt(ret, deny),
		stmt(load, dataNr),
		jump(jset, x32Bit, 0, 1),
		stmt(ret, deny),
	}
	for _, nr := range refused {
		f = append(f, jump(jeq, nr, 0, 1), stmt(ret, deny))
	}
	for nr, conditions := range calls {
		if len(conditions) == 0 {
			f = append(f, jump(jeq, nr, 0, 1), stmt(ret, unix.SECCOMP_RET_TRACE))
			continue
		}
		var body []unix.SockFilter
		for _, c := range conditions {
			test := []unix.SockFilter{stmt(load, dataArgs+8*uint32(c.Arg)), jump(jset, c.Bits, 1, 0)}
			if c.None {
				test[1].Jt, test[1].Jf = 0, 1
			}
			body = append(body, append(test, stmt(ret, unix.SECCOMP_RET_ALLOW))...)
		}
		body = append(body, stmt(ret, unix.SECCOMP_RET_TRACE))
		f = append(append(f, jump(jeq, nr, 0, uint8(len(body)))), body...)
	}
	return append(f, stmt(ret, unix.SECCOMP_RET_ALLOW))
}

// Install puts the filter on the calling thread, which must be locked, for good and for all that it
// starts. It takes CAP_SYS_ADMIN.
func Install(calls Calls, refused []uint32) error {
	f := filter(calls, refused)
	prog := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(f)
	if errno != 0 {
		return fmt.Errorf("installing the seccomp filter (it takes root and a kernel with CONFIG_SECCOMP_FILTER): %w", errno)
	}
	return nil
}
