package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// envEntered marks the process that Enter made.
const envEntered = "LSLAB_ENTERED"

// Enter makes sure that labs can be built. A process that may create network namespaces (root)
// gets entered == true at once. Any other is re-executed with the same arguments in a user
// namespace of its own, where it is root over what it creates; the outer process passes signals
// on, waits, and gets entered == false with the inner one's exit status, with which it must exit.
func Enter() (entered bool, status int, err error) {
	err = mayUnshare()
	if err == nil {
		return true, 0, nil
	}
	if !errors.Is(err, unix.EPERM) || os.Getenv(envEntered) != "" {
		return false, 1, fmt.Errorf("create a network namespace: %w", namespaceHint(err))
	}
	status, err = reenter()
	return false, status, err
}

// Run enters and runs a tool there, until f returns or a signal ends ctx. Where Enter has made another process,
// which has said everything, this one exits with its status.
func Run(ctx context.Context, f func(context.Context) error) error {
	entered, status, err := Enter()
	if err != nil {
		return err
	}
	if !entered {
		os.Exit(status)
	}
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	return f(ctx)
}

// mayUnshare tries it, on a thread that ends with the attempt.
func mayUnshare() error {
	result := make(chan error, 1)
	var try func()
	try = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() { // see space.hold: the first thread cannot end
			inner := make(chan struct{})
			go func() { defer close(inner); try() }()
			<-inner
			runtime.UnlockOSThread()
			return
		}
		result <- unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS)
	}
	go try()
	return <-result
}

func reenter() (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 1, fmt.Errorf("find own executable: %w", err)
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), envEntered+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	// Pdeathsig is tied to the thread that forks: keep it until the child has ended.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("create a user namespace: %w", namespaceHint(err))
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case sig := <-signals:
			// The terminal sends SIGINT to the whole foreground group, the child included; a
			// second one might be taken for impatience.
			if sig != syscall.SIGTERM && inForeground() {
				continue
			}
			_ = cmd.Process.Signal(sig)
		case err := <-ended:
			var exit *exec.ExitError
			if err == nil {
				return 0, nil
			}
			if !errors.As(err, &exit) {
				return 1, fmt.Errorf("wait for own re-execution: %w", err)
			}
			if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
				return 128 + int(ws.Signal()), nil
			}
			return exit.ExitCode(), nil
		}
	}
}

// inForeground tells whether the terminal's signals reach this process's group.
func inForeground() bool {
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return false
	}
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
