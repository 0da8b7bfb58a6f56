package jail

import (
	"encoding/json"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Spec is the program.
type Spec struct {
	Path string // of the file
	Args []string
	// Monotonic is added to the monotonic clock and to that of the time since boot.
	Monotonic time.Duration
}

// Jail is a program that has been started, or is about to be.
type Jail struct {
	Init int // the init's process number
	PID  int // the program's, both as this process sees them

	stub, init int // our ends of the sockets
}

// Start makes the namespaces and the program's process, which waits for Go. The calling goroutine has to be locked to its
// thread, and that has to last as long as the program: when it ends, so does the init.
func Start(s Spec) (*Jail, error) {
	stub, theirStub, err := pair()
	if err != nil {
		return nil, err
	}
	init, theirInit, err := pair()
	if err != nil {
		closeAll(stub, theirStub)
		return nil, err
	}
	spec, err := json.Marshal(s)
	if err != nil {
		closeAll(stub, theirStub, init, theirInit)
		return nil, fmt.Errorf("writing down the program: %w", err)
	}
	j := &Jail{stub: stub, init: init}
	j.Init, err = syscall.ForkExec("/proc/self/exe", []string{initName, string(spec)}, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2, uintptr(theirStub), uintptr(theirInit)},
		Sys: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC,
			Pdeathsig:  syscall.SIGKILL,
		},
	})
	closeAll(theirStub, theirInit)
	if err != nil {
		j.Close()
		return nil, fmt.Errorf("making namespaces for the program (it takes root): %w", err)
	}
	if j.PID, err = hello(stub); err != nil {
		j.Kill()
		j.Close()
		return nil, err
	}
	return j, nil
}

func pair() (ours, theirs int, err error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, fmt.Errorf("making a socket for the program's start: %w", err)
	}
	return p[0], p[1], nil
}

func closeAll(fds ...int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// hello waits for the stub, and learns by which number this process knows it: the kernel translates.
func hello(fd int) (int, error) {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return 0, fmt.Errorf("asking for the program's process number: %w", err)
	}
	text, oob := make([]byte, 4096), make([]byte, 256)
	n, oobn, _, _, err := unix.Recvmsg(fd, text, oob, 0)
	if err != nil {
		return 0, fmt.Errorf("starting the program's process: %w", err)
	}
	if string(text[:n]) != readyMessage {
		if n == 0 {
			return 0, fmt.Errorf("the program's process ended before it began")
		}
		return 0, fmt.Errorf("%s", text[:n])
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return 0, fmt.Errorf("reading the program's process number: %w", err)
	}
	for _, m := range messages {
		if cred, err := unix.ParseUnixCredentials(&m); err == nil {
			return int(cred.Pid), nil
		}
	}
	return 0, fmt.Errorf("the kernel did not say the program's process number")
}

// Go lets the process become the program.
func (j *Jail) Go() error {
	if _, err := unix.Write(j.stub, []byte(goMessage)); err != nil {
		return fmt.Errorf("letting the program go: %w", err)
	}
	return nil
}

// Failure is why the process did not become the program; empty: it has.
func (j *Jail) Failure() string {
	text := make([]byte, 4096)
	n, _, err := unix.Recvfrom(j.stub, text, unix.MSG_DONTWAIT)
	if err != nil {
		return ""
	}
	return string(text[:n])
}

// NextPID makes the next process of the program's namespace have this number there, or the next one that is free.
func (j *Jail) NextPID(pid int) error {
	if _, err := unix.Write(j.init, fmt.Appendf(nil, "%d", pid-1)); err != nil {
		return fmt.Errorf("choosing a process number: %w", err)
	}
	var answer [16]byte
	n, err := unix.Read(j.init, answer[:])
	if err != nil || string(answer[:n]) != doneMessage {
		return fmt.Errorf("choosing a process number (it takes a kernel with CONFIG_CHECKPOINT_RESTORE): %q, %w", answer[:n], err)
	}
	return nil
}

// Kill ends every process of the namespace.
func (j *Jail) Kill() { _ = unix.Kill(j.Init, unix.SIGKILL) } // it has ended, otherwise

// Close lets go of the sockets.
func (j *Jail) Close() { closeAll(j.stub, j.init) }
