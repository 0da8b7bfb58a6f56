//go:build amd64

package trace

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Process is a traced process: a thread group with its memory.
type Process struct {
	PID int
	// Data is the handler's.
	Data any

	threads int

	mu    sync.Mutex // of what SetClock uses, which is not the tracer's thread's alone
	mem   *os.File   // /proc/PID/mem of the present image
	clock uint64     // where the vDSO's value lies, 0: it has none
	seq   uint32
}

// Task is a thread of a process.
type Task struct {
	TID  int
	Proc *Process

	regs    unix.PtraceRegs
	watched bool // stops again when its call has been done
}

// First says whether the thread is the one that the process began with.
func (t *Task) First() bool { return t.TID == t.Proc.PID }

// Call is the number of the call that the task is in.
func (t *Task) Call() uint32 { return uint32(t.regs.Orig_rax) }

// Arg is its n-th argument, from 0.
func (t *Task) Arg(n int) uint64 {
	switch n {
	case 0:
		return t.regs.Rdi
	case 1:
		return t.regs.Rsi
	case 2:
		return t.regs.Rdx
	case 3:
		return t.regs.R10
	case 4:
		return t.regs.R8
	}
	return t.regs.R9
}

// Result is what a call that is done has returned; negative: an error number.
func (t *Task) Result() int64 { return int64(t.regs.Rax) }

// Restarts says whether a call was interrupted and will be made again: nothing has happened.
func (t *Task) Restarts() bool { return t.Result() <= -512 && t.Result() >= -516 } // ERESTARTSYS ... ERESTART_RESTARTBLOCK

// answer makes the kernel skip the call and return result.
func (t *Task) answer(result int64) error {
	t.regs.Orig_rax = ^uint64(0)
	t.regs.Rax = uint64(result)
	return unix.PtraceSetRegs(t.TID, &t.regs)
}

var errMemory = errors.New("the program's memory cannot be reached")

// Read reads the program's memory. An address that is not its own is an error, as it is for the kernel.
func (t *Task) Read(at uint64, p []byte) error {
	return t.copy(unix.SYS_PROCESS_VM_READV, at, p)
}

// Write writes the program's memory.
func (t *Task) Write(at uint64, p []byte) error {
	return t.copy(unix.SYS_PROCESS_VM_WRITEV, at, p)
}

func (t *Task) copy(call uintptr, at uint64, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	local := unix.Iovec{Base: &p[0], Len: uint64(len(p))}
	remote := unix.RemoteIovec{Base: uintptr(at), Len: len(p)}
	n, _, errno := unix.RawSyscall6(call, uintptr(t.Proc.PID), uintptr(unsafe.Pointer(&local)), 1, uintptr(unsafe.Pointer(&remote)), 1, 0)
	if errno != 0 || int(n) != len(p) {
		return errMemory
	}
	return nil
}

// open opens the memory of the process's present image.
func (p *Process) open() error {
	p.close()
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", p.PID), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("opening the program's memory: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mem = mem
	return nil
}

// fork is a process with a copy of this one's memory.
func (p *Process) fork(pid int) *Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return &Process{PID: pid, threads: 1, clock: p.clock, seq: p.seq}
}

// place says where the clock's value lies.
func (p *Process) place(clock uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clock = clock
}

func (p *Process) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mem != nil {
		p.mem.Close() // read and written without buffers: nothing is lost
		p.mem = nil
	}
}
