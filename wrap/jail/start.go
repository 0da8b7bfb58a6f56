package jail

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
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

	// StubFD and InitFD are the two processes' ends of the sockets, above all that the program inherits.
	StubFD, InitFD int
}

// Jail is a program that has been started, or is about to be.
type Jail struct {
	PID int // the program's process number, as this process sees it

	stub, init       int // our ends of the sockets
	pidfd, initPidfd int // of the program and of the init: numbers are another process's once they have ended
}

// Start makes the namespaces and the program's process, which waits for Go. Descriptors that this process was given are the
// program's from then on. The calling goroutine has to be locked to its
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
	files, spec, err := inherit(s, theirStub, theirInit)
	if err != nil {
		closeAll(stub, theirStub, init, theirInit)
		return nil, err
	}
	j := &Jail{stub: stub, init: init, pidfd: -1, initPidfd: -1}
	_, err = syscall.ForkExec("/proc/self/exe", []string{initName, spec}, &syscall.ProcAttr{
		Env:   environ(),
		Files: files,
		Sys: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC,
			Pdeathsig:  syscall.SIGKILL,
			PidFD:      &j.initPidfd,
		},
	})
	closeAll(theirStub, theirInit)
	release(files[:len(files)-2])
	if err != nil {
		j.Close()
		return nil, fmt.Errorf("making namespaces for the program (it takes root): %w", err)
	}
	if j.PID, err = hello(stub); err == nil {
		j.pidfd, err = unix.PidfdOpen(j.PID, 0)
	}
	if err != nil {
		j.Kill()
		j.Close()
		return nil, err
	}
	return j, nil
}

// inherit says which descriptors the init gets: those that this process was given, in their places, since the program may know
// them by number (as from systemd's sockets), and above them the sockets.
func inherit(s Spec, theirStub, theirInit int) (files []uintptr, spec string, err error) {
	files = inherited()
	s.StubFD, s.InitFD = len(files), len(files)+1
	b, err := json.Marshal(s)
	if err != nil {
		return nil, "", fmt.Errorf("writing down the program: %w", err)
	}
	return append(files, uintptr(theirStub), uintptr(theirInit)), string(b), nil
}

// maxInherited is up to which number descriptors are looked for.
const maxInherited = 1024

// inherited are the descriptors that an exec would keep, each in its place.
func inherited() []uintptr {
	files := []uintptr{0, 1, 2}
	for fd := len(files); fd < maxInherited; fd++ {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
			continue
		}
		for len(files) < fd {
			files = append(files, ^uintptr(0)) // closed
		}
		files = append(files, uintptr(fd))
	}
	return files
}

// release closes them but the standard ones, once they are another process's: what the program closes shall be closed.
func release(files []uintptr) {
	for _, fd := range files[3:] {
		if fd != ^uintptr(0) {
			closeAll(int(fd))
		}
	}
}

// environ is the program's. Sockets that systemd has given to this process are the program's (sd_listen_fds(3)).
func environ() []string {
	env := os.Environ()
	if i := slices.Index(env, fmt.Sprintf("LISTEN_PID=%d", os.Getpid())); i >= 0 {
		env[i] = fmt.Sprintf("LISTEN_PID=%d", FirstPID)
		env = slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, "LISTEN_PIDFDID=") }) // the same check again
	}
	return env
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

// Signal sends the program's first process a signal.
func (j *Jail) Signal(s unix.Signal) { _ = unix.PidfdSendSignal(j.pidfd, s, nil, 0) } // it has ended, otherwise

// Kill ends every process of the namespace.
func (j *Jail) Kill() { _ = unix.PidfdSendSignal(j.initPidfd, unix.SIGKILL, nil, 0) } // it has ended, otherwise

// Close lets go of the sockets and processes.
func (j *Jail) Close() { closeAll(j.stub, j.init, j.pidfd, j.initPidfd) }
