//go:build amd64

package wrap

import (
	"golang.org/x/sys/unix"

	"lockstep/wrap/trace"
)

// stops are the calls that stop. Of read and recvfrom all do, as the filter cannot tell files from
// sockets; waiting for a futex only with a time-out, and clone only if it makes a process.
var stops = trace.Calls{
	unix.SYS_ACCEPT: nil, unix.SYS_ACCEPT4: nil,
	unix.SYS_GETRANDOM: nil, unix.SYS_READ: nil, unix.SYS_RECVFROM: nil,
	unix.SYS_FORK: nil, unix.SYS_VFORK: nil, unix.SYS_CLONE3: nil,
	unix.SYS_CLONE: {{Arg: 0, Bits: unix.CLONE_THREAD, None: true}},

	unix.SYS_CLOCK_GETTIME: nil, unix.SYS_GETTIMEOFDAY: nil, unix.SYS_TIME: nil,
	unix.SYS_POLL: nil, unix.SYS_PPOLL: nil, unix.SYS_SELECT: nil, unix.SYS_PSELECT6: nil,
	unix.SYS_EPOLL_WAIT: nil, unix.SYS_EPOLL_PWAIT: nil, unix.SYS_EPOLL_PWAIT2: nil,
	unix.SYS_NANOSLEEP: nil, unix.SYS_CLOCK_NANOSLEEP: nil, unix.SYS_RESTART_SYSCALL: nil,
	unix.SYS_WAIT4: nil, unix.SYS_WAITID: nil, unix.SYS_RT_SIGTIMEDWAIT: nil, unix.SYS_RT_SIGSUSPEND: nil, unix.SYS_PAUSE: nil,
	unix.SYS_FUTEX: {{Arg: 3, Bits: 0xffffffff}, {Arg: 1, Bits: 0x76, None: true}}, // FUTEX_WAIT, FUTEX_WAIT_BITSET

	unix.SYS_STAT: nil, unix.SYS_LSTAT: nil, unix.SYS_FSTAT: nil, unix.SYS_NEWFSTATAT: nil, unix.SYS_STATX: nil,
	unix.SYS_STATFS: nil, unix.SYS_FSTATFS: nil,
	unix.SYS_GETDENTS64: nil,
}

// refusedCalls do not exist for the program: what is read by way of a ring nobody sees.
var refusedCalls = []uint32{unix.SYS_IO_URING_SETUP}

// Enter implements trace.Handler.
func (s *supervisor) Enter(t *trace.Task) (trace.Next, int64) {
	switch t.Call() {
	case unix.SYS_GETRANDOM:
		return s.getrandom(t)
	case unix.SYS_READ, unix.SYS_RECVFROM:
		return s.read(t)
	case unix.SYS_FORK, unix.SYS_VFORK, unix.SYS_CLONE:
		return trace.Fork, 0
	case unix.SYS_CLONE3:
		return s.clone3(t)
	case unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY, unix.SYS_TIME:
		return s.time(t)
	case unix.SYS_GETDENTS64:
		return s.getdents(t)
	}
	return trace.Watch, 0
}

// Leave implements trace.Handler.
func (s *supervisor) Leave(t *trace.Task) {
	if t.Restarts() {
		return
	}
	switch t.Call() {
	case unix.SYS_ACCEPT, unix.SYS_ACCEPT4:
		s.accepted(t)
	case unix.SYS_STAT, unix.SYS_LSTAT, unix.SYS_FSTAT, unix.SYS_NEWFSTATAT, unix.SYS_STATX:
		s.stat(t)
	case unix.SYS_STATFS, unix.SYS_FSTATFS:
		s.statfs(t)
	case unix.SYS_CLOCK_GETTIME:
		s.processorTime(t)
	default:
		s.waited(t)
	}
}
