//go:build amd64

package trace

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Next is what becomes of a call.
type Next int

const (
	Pass   Next = iota // the kernel does it
	Watch              // the kernel does it, and then Leave is asked
	Answer             // the kernel does not; the result is the one given with it
	Fork               // the kernel makes a process of it; no other call does so meanwhile
)

// Handler decides what programs get. All of it is called by the tracer's thread.
type Handler interface {
	// Enter is asked before a call of those that stop.
	Enter(t *Task) (next Next, result int64)
	// Leave is told when a watched call has been done.
	Leave(t *Task)
	// Exec returns the 16 random bytes of a new image, before its first instruction.
	Exec(p *Process) []byte
	// Ready is told when a new image can be given a clock.
	Ready(p *Process)
	// Forking is told before the call of which Enter has said Fork.
	Forking(t *Task)
	// Forked is told of a new process before its first instruction.
	Forked(parent, child *Process)
	// Ended is told when a process is no more.
	Ended(p *Process, status unix.WaitStatus)
	// Refused is told why a process was killed.
	Refused(p *Process, why string)
	// Failed is told why a process cannot be followed any more. It is killed.
	Failed(p *Process, err error)
}

// Tracer follows one tree of processes. It belongs to one locked thread.
type Tracer struct {
	handler Handler
	tasks   map[int]*Task
	orphans map[int]orphan
	forking *Task   // the one in a call that makes a process
	queue   []*Task // wait for their turn to do the same
	layout  *layout
	wait    func(*unix.WaitStatus) (pid int, err error)
}

// options of every task: all that it makes is traced, too, and nothing outlives the tracer.
const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACECLONE |
	unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_TRACESECCOMP | unix.PTRACE_O_EXITKILL

// wnothread: only children and tracees of this thread (linux/wait.h); the rest of the program has its own.
const wnothread = 0x20000000

// Attach begins to follow a process, which must not have started others. Its own memory is not touched
// before it executes a program.
func Attach(pid int, h Handler) (*Tracer, *Process, error) {
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, options, 0, 0); errno != 0 {
		return nil, nil, fmt.Errorf("tracing process %d (it takes CAP_SYS_PTRACE): %w", pid, errno)
	}
	p := &Process{PID: pid, threads: 1}
	tr := &Tracer{handler: h, tasks: map[int]*Task{pid: {TID: pid, Proc: p}}, orphans: map[int]orphan{}, wait: wait}
	return tr, p, nil
}

func wait(status *unix.WaitStatus) (int, error) {
	return unix.Wait4(-1, status, unix.WALL|wnothread, nil)
}

// Run handles stops until no child and no traced process of this thread is left. Other children of the thread
// are reaped.
func (tr *Tracer) Run() error {
	for {
		var status unix.WaitStatus
		pid, err := tr.wait(&status)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD):
			return nil
		case err != nil:
			return fmt.Errorf("waiting for the program: %w", err)
		}
		t := tr.tasks[pid]
		switch {
		case t == nil:
			tr.unknown(pid, status)
		case status.Stopped():
			if err := tr.stopped(t, status); err != nil {
				tr.failed(t, err)
			}
		default:
			tr.gone(t, status)
		}
	}
}

// failed ends a process that cannot be followed: its own end, and nobody else's. One that does not stand still was killed
// meanwhile, which its end will tell.
func (tr *Tracer) failed(t *Task, err error) {
	var regs unix.PtraceRegs
	if errors.Is(err, unix.ESRCH) || errors.Is(unix.PtraceGetRegs(t.TID, &regs), unix.ESRCH) {
		return
	}
	tr.handler.Failed(t.Proc, err)
	_ = unix.Kill(t.Proc.PID, unix.SIGKILL) // it has ended, otherwise
}

// gone forgets a task. A process ends with its first thread, which the kernel reports last.
func (tr *Tracer) gone(t *Task, status unix.WaitStatus) {
	delete(tr.tasks, t.TID)
	t.Proc.threads--
	if tr.forking == t {
		tr.nextFork()
	}
	if t.First() {
		tr.handler.Ended(t.Proc, status)
		t.Proc.close()
	}
}

// stopped handles one stop.
func (tr *Tracer) stopped(t *Task, status unix.WaitStatus) error {
	signal, event := status.StopSignal(), int(status)>>16
	switch {
	case event == unix.PTRACE_EVENT_SECCOMP:
		return tr.entered(t)
	case signal == unix.SIGTRAP|0x80:
		return tr.left(t)
	case event == unix.PTRACE_EVENT_EXEC:
		return tr.executed(t)
	case event == unix.PTRACE_EVENT_FORK || event == unix.PTRACE_EVENT_VFORK || event == unix.PTRACE_EVENT_CLONE:
		return tr.born(t)
	case event == unix.PTRACE_EVENT_STOP:
		switch signal {
		case unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU: // a group stop: it lasts until SIGCONT
			return request(unix.PTRACE_LISTEN, t.TID, 0)
		}
		return tr.resume(t, 0)
	}
	return tr.resume(t, int(signal)) // a signal is delivered
}

func request(what, pid, data int) error {
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(what), uintptr(pid), 0, uintptr(data), 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// resume lets a task go on, to the end of its call if that is watched.
func (tr *Tracer) resume(t *Task, signal int) error {
	if t.watched {
		return request(unix.PTRACE_SYSCALL, t.TID, signal)
	}
	return request(unix.PTRACE_CONT, t.TID, signal)
}

func (tr *Tracer) entered(t *Task) error {
	if err := unix.PtraceGetRegs(t.TID, &t.regs); err != nil {
		return err
	}
	next, result := tr.handler.Enter(t)
	switch next {
	case Watch:
		t.watched = true
	case Answer:
		if err := t.answer(result); err != nil {
			return err
		}
	case Fork:
		if tr.forking != nil {
			tr.queue = append(tr.queue, t)
			return nil
		}
		return tr.fork(t)
	}
	return tr.resume(t, 0)
}

// fork lets a task make a process.
func (tr *Tracer) fork(t *Task) error {
	tr.forking = t
	t.watched = true
	tr.handler.Forking(t)
	return tr.resume(t, 0)
}

// nextFork lets the next one make a process. One that was killed while it waited is gone.
func (tr *Tracer) nextFork() {
	tr.forking = nil
	tr.abandon()
	for len(tr.queue) > 0 {
		t := tr.queue[0]
		tr.queue = tr.queue[1:]
		if tr.tasks[t.TID] == t && tr.fork(t) == nil {
			return
		}
		tr.forking = nil
	}
}

func (tr *Tracer) left(t *Task) error {
	t.watched = false
	if tr.forking == t { // no process was made
		tr.nextFork()
		return tr.resume(t, 0)
	}
	if err := unix.PtraceGetRegs(t.TID, &t.regs); err != nil {
		return err
	}
	tr.handler.Leave(t)
	return tr.resume(t, 0)
}

// born: the task has made a thread or a process.
func (tr *Tracer) born(t *Task) error {
	message, err := unix.PtraceGetEventMsg(t.TID)
	if err != nil {
		return err
	}
	tid := int(message)
	child := &Task{TID: tid, Proc: t.Proc}
	if unix.Tgkill(t.Proc.PID, tid, 0) == nil {
		t.Proc.threads++
	} else {
		child.Proc = t.Proc.fork(tid)
		err = child.Proc.open()
		tr.handler.Forked(t.Proc, child.Proc)
	}
	tr.tasks[tid] = child
	early, ok := tr.orphans[tid]
	delete(tr.orphans, tid)
	switch {
	case early.ended && !traced(tid): // else the number is another's now
		tr.gone(child, early.status)
	case err != nil:
		tr.failed(child, err)
	case ok:
		if err := tr.resume(child, 0); err != nil {
			tr.failed(child, err)
		}
	}
	if tr.forking == t {
		t.watched = false
		tr.nextFork()
	}
	return tr.resume(t, 0)
}

// executed: the process has a new image. Its other threads are no more, and who executed has the
// process's number now.
func (tr *Tracer) executed(t *Task) error {
	message, err := unix.PtraceGetEventMsg(t.TID)
	if err != nil {
		return err
	}
	former := tr.tasks[int(message)]
	if former != nil && former != t {
		delete(tr.tasks, former.TID)
	}
	if tr.forking != nil && (tr.forking == t || tr.forking == former) { // it was a thread that is no more
		tr.nextFork()
	}
	p := t.Proc
	p.threads = 1
	t.watched = false
	if why := machine(p.PID); why != "" {
		tr.handler.Refused(p, why)
		return unix.Kill(p.PID, unix.SIGKILL)
	}
	if err := tr.image(t, tr.handler.Exec(p)); err != nil {
		return err
	}
	tr.handler.Ready(p)
	return tr.resume(t, 0)
}
