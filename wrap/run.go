//go:build amd64

package wrap

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/wrap/determinant"
	"lockstep/wrap/jail"
	"lockstep/wrap/trace"
)

// Options of a run.
type Options struct {
	Command []string
	// Secret is the one that the servers share.
	Secret []byte
	// Authority decides what cannot be derived.
	Authority determinant.Authority
	// Messages is where it is said what cannot be carried, a line each.
	Messages io.Writer
}

// Exit statuses of a command that could not be run, as a shell has them.
const (
	statusNotFound = 127
	statusRefused  = 126
)

// Main is to be called first in main and in TestMain: the program is started by this executable. In an ordinary
// process it returns at once.
func Main() {
	jail.Main(func() error { return trace.Install(stops, refusedCalls) })
}

// CommandError is why a command cannot be run.
type CommandError struct {
	Status int
	Err    error
}

func (e *CommandError) Error() string { return e.Err.Error() }
func (e *CommandError) Unwrap() error { return e.Err }

// find resolves a command and refuses what cannot be carried.
func find(command string) (string, error) {
	path, err := exec.LookPath(command)
	if err != nil {
		status := statusNotFound
		if errors.Is(err, os.ErrPermission) {
			status = statusRefused
		}
		return "", &CommandError{status, err}
	}
	f, err := os.Open(path)
	if err != nil {
		return "", &CommandError{statusRefused, err}
	}
	defer f.Close()
	var head [20]byte
	n, _ := f.ReadAt(head[:], 0) // a shorter file is no ELF file; exec says what is wrong with it
	if why := trace.Machine(head[:n]); why != "" {
		return "", &CommandError{statusRefused, fmt.Errorf("%s %s: wrap carries programs of 64 bits for x86-64", path, why)}
	}
	return path, nil
}

// Run runs a command until it has ended, and returns its wait status. It ends with the command: if that exits with 0 while
// processes that it has started go on (a daemon that went into the background), then with the last of them, else these
// are ended. Signals that this process gets go to the command; once its first process has ended, SIGTERM and SIGINT end the others.
func Run(o Options) (unix.WaitStatus, error) {
	if unix.Geteuid() != 0 {
		return 0, errors.New("wrap needs root: it makes namespaces for the program and traces what it does. The program may change its user")
	}
	path, err := find(o.Command[0])
	if err != nil {
		return 0, err
	}
	type end struct {
		status unix.WaitStatus
		err    error
	}
	ended := make(chan end)
	go func() {
		runtime.LockOSThread() // one thread traces; it ends here, for nobody else's use
		status, err := run(o, path)
		ended <- end{status, err}
	}()
	e := <-ended
	return e.status, e.err
}

func run(o Options, path string) (unix.WaitStatus, error) {
	s, err := newSupervisor(o)
	if err != nil {
		return 0, err
	}
	start, err := s.start()
	if err != nil {
		return 0, err
	}
	s.jail, err = jail.Start(jail.Spec{Path: path, Args: o.Command, Monotonic: time.Duration(s.monotonic)})
	if err != nil {
		return 0, err
	}
	defer s.jail.Close()
	tracer, first, err := trace.Attach(s.jail.PID, s)
	if err == nil {
		s.begin(first, start)
		err = s.jail.Go()
	}
	if err != nil {
		s.jail.Kill()
		return 0, err
	}
	stop := s.forward()
	stopClock := s.keepTime()
	err = tracer.Run()
	stopClock()
	stop()
	if err != nil {
		s.jail.Kill()
		return 0, err
	}
	if s.failed != nil {
		return 0, s.failed
	}
	if s.refused != "" {
		return 0, &CommandError{statusRefused, errors.New(s.refused)}
	}
	if why := s.jail.Failure(); why != "" {
		return 0, &CommandError{statusRefused, errors.New(why)}
	}
	return s.status, nil
}

// passed are the signals that go to the program. Those that a terminal sends to its foreground group
// reach the program by themselves, since it is in that group, too.
var passed = []os.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2,
	syscall.SIGWINCH, syscall.SIGCONT, syscall.SIGALRM,
}

func (s *supervisor) forward() (stop func()) {
	signals, quit := make(chan os.Signal, 16), make(chan struct{})
	signal.Notify(signals, passed...)
	var joined sync.WaitGroup
	joined.Go(func() {
		for {
			select {
			case got := <-signals:
				switch {
				case s.mainEnded.Load():
					if got == syscall.SIGTERM || got == syscall.SIGINT {
						s.jail.Kill()
					}
				case !terminalSends(got) || !inForeground():
					s.jail.Signal(got.(syscall.Signal))
				}
			case <-quit:
				return
			}
		}
	})
	return func() {
		signal.Stop(signals)
		close(quit)
		joined.Wait()
	}
}

func terminalSends(s os.Signal) bool {
	return s == syscall.SIGINT || s == syscall.SIGQUIT || s == syscall.SIGWINCH || s == syscall.SIGCONT
}

// inForeground says whether a terminal has this process's group in its foreground.
func inForeground() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
