//go:build amd64

package trace

import (
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// follower is a handler that lets all go.
type follower struct {
	t      *testing.T
	main   *Process
	status unix.WaitStatus
	there  map[*Process]bool
	begun  int
	exec   func(p *Process)
	random []byte
	failed int
}

func (f *follower) Enter(*Task) (Next, int64) { return Fork, 0 }
func (f *follower) Leave(*Task)               {}
func (f *follower) Ready(*Process)            {}
func (f *follower) Forking(*Task)             {}
func (f *follower) Exec(p *Process) []byte {
	if p == f.main { // its exec may be under way when it is attached to
		return make([]byte, 16)
	}
	if f.exec != nil {
		f.exec(p)
	}
	return f.random
}
func (f *follower) Forked(_, child *Process) {
	f.begun++
	f.there[child] = true
}
func (f *follower) Ended(p *Process, status unix.WaitStatus) {
	delete(f.there, p)
	if p == f.main {
		f.status = status
	}
}
func (f *follower) Refused(p *Process, why string) { f.t.Errorf("process %d: %s", p.PID, why) }
func (f *follower) Failed(p *Process, err error) {
	f.failed++
	f.t.Logf("process %d: %v", p.PID, err)
}

// follow runs a shell's script. prepare may change the tracer.
func follow(t *testing.T, script string, prepare func(*Tracer, *follower)) *follower {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	f, ended := &follower{t: t, there: map[*Process]bool{}, random: make([]byte, 16)}, make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the filter stays
		ended <- f.run(script, prepare)
	}()
	select {
	case err := <-ended:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(time.Minute):
		_ = unix.Kill(f.main.PID, unix.SIGKILL) // it has ended, otherwise
		t.Fatal("the program has not ended; a process stands still")
	}
	return f
}

func (f *follower) run(script string, prepare func(*Tracer, *follower)) error {
	// clone makes a process in the shell; this program's own has the flag CLONE_VM.
	if err := Install(Calls{unix.SYS_CLONE: {{Arg: 0, Bits: unix.CLONE_VM, None: true}}}, nil); err != nil {
		return err
	}
	in, begin, err := os.Pipe()
	if err != nil {
		return err
	}
	defer in.Close()
	defer begin.Close()
	pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", "read go; " + script}, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{in.Fd(), 1, 2},
	})
	if err != nil {
		return err
	}
	tr, first, err := Attach(pid, f)
	if err != nil {
		return err
	}
	f.main = first
	if prepare != nil {
		prepare(tr, f)
	}
	if _, err := begin.WriteString("go\n"); err != nil {
		return err
	}
	err = tr.Run()
	if err == nil && (len(tr.tasks) > 0 || len(tr.orphans) > 0 || len(f.there) > 0 || tr.forking != nil) {
		f.t.Errorf("all have ended, and there are %d tasks, %d orphans, %d processes", len(tr.tasks), len(tr.orphans), len(f.there))
	}
	return err
}

// Who is killed during its exec ends, and nobody else does.
func TestKilledDuringExec(t *testing.T) {
	f := follow(t, "/bin/true; /bin/true; exit 7", func(_ *Tracer, f *follower) {
		f.exec = func(p *Process) {
			if err := unix.Kill(p.PID, unix.SIGKILL); err != nil {
				t.Error(err)
			}
		}
	})
	if f.begun != 2 || f.status.ExitStatus() != 7 {
		t.Errorf("%d processes, status %d", f.begun, f.status.ExitStatus())
	}
}

// Whose memory cannot be reached is ended, which is said.
func TestCannotBeFollowed(t *testing.T) {
	f := follow(t, "/bin/true; test $? = 137 && exit 7", func(_ *Tracer, f *follower) {
		f.exec = func(*Process) { f.random = make([]byte, 1<<24) } // more than the program's stack has
	})
	if f.failed != 1 || f.status.ExitStatus() != 7 {
		t.Errorf("%d processes failed, status %d", f.failed, f.status.ExitStatus())
	}
}

// pass lets fix see a stop, before the tracer does.
func pass(tr *Tracer, fix func(pid int, status unix.WaitStatus)) {
	tr.wait = func(status *unix.WaitStatus) (int, error) {
		pid, err := wait(status)
		if err == nil {
			fix(pid, *status)
		}
		return pid, err
	}
}

func forks(status unix.WaitStatus) bool {
	return status.Stopped() && int(status)>>16 == unix.PTRACE_EVENT_FORK
}

// A process whose maker is killed before he could tell of it does not stand still for ever.
func TestMakerKilledAtItsFork(t *testing.T) {
	killed := 0
	f := follow(t, "(sh -c '(exit 1) & wait; sleep 1000'); (exit 2); exit 7", func(tr *Tracer, f *follower) {
		pass(tr, func(pid int, status unix.WaitStatus) {
			if forks(status) && pid != f.main.PID && killed == 0 {
				killed = pid
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					t.Error(err)
				}
			}
		})
	})
	if killed == 0 || f.status.ExitStatus() != 7 {
		t.Errorf("process %d killed, status %d", killed, f.status.ExitStatus())
	}
}

// A process may end before its maker has told of it, whether it was seen to stop or not.
func TestEndsBeforeItWasTold(t *testing.T) {
	ended := 0
	f := follow(t, "(exit 1); (exit 2); exit 7", func(tr *Tracer, f *follower) {
		type report struct {
			pid    int
			status unix.WaitStatus
		}
		var later []report
		tr.wait = func(status *unix.WaitStatus) (int, error) {
			if len(later) > 0 {
				r := later[0]
				later = later[1:]
				*status = r.status
				return r.pid, nil
			}
			pid, err := wait(status)
			if err != nil || !forks(*status) {
				return pid, err
			}
			message, err := unix.PtraceGetEventMsg(pid)
			if err != nil {
				return 0, err
			}
			child := int(message)
			if err := unix.Kill(child, unix.SIGKILL); err != nil {
				return 0, err
			}
			var end unix.WaitStatus
			for !end.Signaled() {
				if _, err := unix.Wait4(child, &end, unix.WALL, nil); err != nil {
					return 0, err
				}
			}
			ended++
			later = append(later, report{pid, *status})
			*status = end
			return child, nil
		}
	})
	if ended != 2 || f.begun != 2 || f.status.ExitStatus() != 7 {
		t.Errorf("%d processes ended, %d were told, status %d", ended, f.begun, f.status.ExitStatus())
	}
}

// The clock may be set while the image changes (the race detector looks on).
func TestClockIsSetMeanwhile(t *testing.T) {
	value := new([valueSize]byte)
	p := &Process{PID: os.Getpid()}
	var all sync.WaitGroup
	all.Go(func() {
		for n := range 1000 {
			_ = p.SetClock(Clock{Real: int64(n)}) // without memory there is none
		}
	})
	for range 100 {
		p.place(uint64(uintptr(unsafe.Pointer(value))))
		if err := p.open(); err != nil {
			t.Error(err)
		}
		if p.fork(1).clock == 0 {
			t.Error("a child has no clock")
		}
		p.place(0)
		p.close()
	}
	all.Wait()
	runtime.KeepAlive(value)
}
