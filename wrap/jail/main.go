package jail

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What the two processes are called, and what is said.
const (
	initName = "lockstep-wrap-init"
	stubName = "lockstep-wrap-program"

	readyMessage = "ready"
	goMessage    = "go"
	doneMessage  = "done"
)

// FirstPID is the program's process number in its namespace. Beneath it are the init's threads.
const FirstPID = 100

// Both work on their first thread: it becomes the program, and it is the one whose time namespace counts.
func init() {
	if len(os.Args) > 0 && (os.Args[0] == stubName || os.Args[0] == initName) {
		runtime.LockOSThread()
	}
}

// Main is to be called first in main and in TestMain. In an ordinary process it returns at once. prepare is done by the
// stub's thread, once the program is followed and before it begins.
func Main(prepare func() error) {
	if len(os.Args) != 2 || (os.Args[0] != initName && os.Args[0] != stubName) {
		return
	}
	var s Spec
	if err := json.Unmarshal([]byte(os.Args[1]), &s); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if os.Args[0] == initName {
		reap(s)
	}
	s.fail(become(s, prepare))
}

// fail tells the supervisor, which prints it.
func (s Spec) fail(err error) {
	_, _ = unix.Write(s.StubFD, []byte(err.Error())) // who does not listen has gone
	os.Exit(1)
}

// reap is the init: it starts the program and reaps whatever ends beneath it, until nothing is left.
func reap(s Spec) {
	unix.CloseOnExec(s.InitFD)
	// Signals of the terminal are the program's affair. They are caught, since what is ignored the program would inherit.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2)
	if err := enter(s); err != nil {
		s.fail(err)
	}
	if err := lastPID(FirstPID - 1); err != nil {
		s.fail(err)
	}
	spec, err := json.Marshal(s)
	if err != nil {
		s.fail(err)
	}
	files := inherited() // the stub's socket is one of them
	if _, err := syscall.ForkExec("/proc/self/exe", []string{stubName, string(spec)}, &syscall.ProcAttr{
		Env: os.Environ(), Files: files,
	}); err != nil {
		s.fail(fmt.Errorf("starting the program's process: %w", err))
	}
	release(files)
	go numbers(s.InitFD)
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); errors.Is(err, unix.ECHILD) {
			os.Exit(0)
		}
	}
}

// enter makes the namespaces the program's own.
func enter(s Spec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /proc for the program's processes: %w", err)
	}
	if s.Monotonic == 0 {
		return nil
	}
	if err := unix.Unshare(unix.CLONE_NEWTIME); err != nil {
		return fmt.Errorf("making a time namespace (it takes Linux 5.6 and CONFIG_TIME_NS): %w", err)
	}
	sec, nsec := int64(s.Monotonic/time.Second), int64(s.Monotonic%time.Second)
	if nsec < 0 {
		sec, nsec = sec-1, nsec+int64(time.Second)
	}
	offsets := fmt.Sprintf("monotonic %d %d\nboottime %d %d\n", sec, nsec, sec, nsec)
	if err := os.WriteFile("/proc/self/timens_offsets", []byte(offsets), 0); err != nil {
		return fmt.Errorf("setting the monotonic clock of the time namespace: %w", err)
	}
	return nil
}

func lastPID(pid int) error {
	if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", fmt.Append(nil, pid), 0); err != nil {
		return fmt.Errorf("choosing a process number (it takes a kernel with CONFIG_CHECKPOINT_RESTORE): %w", err)
	}
	return nil
}

// numbers sets process numbers as the supervisor asks (NextPID), until it is gone.
func numbers(socket int) {
	for {
		var b [16]byte
		n, err := unix.Read(socket, b[:])
		if n <= 0 {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return
		}
		answer := doneMessage
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", b[:n], 0); err != nil {
			answer = "refused"
		}
		if _, err := unix.Write(socket, []byte(answer)); err != nil {
			return
		}
	}
}

// become makes the stub the program. It returns only if that cannot be.
func become(s Spec, prepare func() error) error {
	unix.CloseOnExec(s.StubFD)
	if _, err := unix.Write(s.StubFD, []byte(readyMessage)); err != nil {
		return err
	}
	var b [16]byte
	if n, err := unix.Read(s.StubFD, b[:]); err != nil || string(b[:n]) != goMessage {
		return fmt.Errorf("waiting for the supervisor: %w", err)
	}
	const noRandomAddresses = 0x0040000 // ADDR_NO_RANDOMIZE
	persona, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, 0xffffffff, 0, 0)
	if errno == 0 {
		_, _, errno = unix.RawSyscall(unix.SYS_PERSONALITY, persona|noRandomAddresses, 0, 0)
	}
	if errno != 0 {
		return fmt.Errorf("turning address randomisation off: %w", errno)
	}
	if err := prepare(); err != nil {
		return err
	}
	return fmt.Errorf("running %s: %w", s.Path, syscall.Exec(s.Path, s.Args, os.Environ()))
}
