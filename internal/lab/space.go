package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// space is one set of namespaces (network, mount, UTS) and the locked OS thread that holds it.
// The thread lives as long as the space: PR_SET_PDEATHSIG of the processes forked from it fires
// when that very thread ends, so it must not be a short-lived one.
type space struct {
	name  string
	calls chan call
	quit  chan struct{}   // closed by close
	ended chan struct{}   // closed when the holder thread has left
	nl    *netlink.Handle // sockets created inside; usable from any goroutine

	mu     sync.Mutex
	fd     int // the network namespace; owned
	closed bool
}

type call struct {
	fn   func() error
	done chan error
}

// newSpace creates the namespaces and brings the loopback interface up.
func newSpace(name string) (*space, error) {
	s := &space{name: name, calls: make(chan call), quit: make(chan struct{}), ended: make(chan struct{})}
	ready := make(chan error, 1)
	go s.hold(ready)
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("create namespace for %q: %w", name, err)
	}
	if err := s.do(s.prepare); err != nil {
		s.close()
		return nil, fmt.Errorf("prepare namespace of %q: %w", name, err)
	}
	return s, nil
}

// hold is the holder thread.
func (s *space) hold(ready chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// This is the process's first thread. It cannot end before the process does and would
		// keep the namespace (and /proc/self/ns/net) with it. Let another goroutine do it while
		// this one still occupies the thread.
		moved := make(chan error, 1)
		go s.hold(moved)
		ready <- <-moved
		runtime.UnlockOSThread()
		return
	}
	// Never unlocked: the thread ends with this goroutine, as its namespaces are not the
	// runtime's.
	defer close(s.ended)
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS); err != nil {
		ready <- namespaceHint(fmt.Errorf("unshare: %w", err))
		return
	}
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		ready <- fmt.Errorf("open own network namespace: %w", err)
		return
	}
	s.fd = fd
	ready <- nil
	for {
		select {
		case c := <-s.calls:
			c.done <- c.fn()
		case <-s.quit:
			return
		}
	}
}

// do runs fn on the holder thread. Calls are serialised: fn must be short.
func (s *space) do(fn func() error) error {
	c := call{fn: fn, done: make(chan error, 1)}
	select {
	case s.calls <- c:
		return <-c.done
	case <-s.ended:
		return fmt.Errorf("namespace %q: %w", s.name, os.ErrClosed)
	}
}

// prepare runs on the holder thread, once.
func (s *space) prepare() error {
	// Mounts made here stay here.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// A sysfs of its own, so that /sys/class/net shows this namespace's interfaces. A container
	// may forbid it; only programs that look there would notice.
	_ = unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	_ = unix.Sethostname([]byte(s.name))
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	s.nl = nl
	lo, err := nl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := nl.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	return nil
}

// close ends the holder thread. Processes forked from it get SIGKILL if they still run. The
// namespace itself goes when its last socket does.
func (s *space) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	close(s.quit)
	<-s.ended
	if s.nl != nil {
		s.nl.Close()
	}
	unix.Close(s.fd)
}

// sysctl writes one value below /proc/sys; key in dotted or slashed form. An interface name
// with a dot needs the slashed form.
func (s *space) sysctl(key, value string) error {
	path := key
	if !strings.Contains(key, "/") {
		path = strings.ReplaceAll(key, ".", "/")
	}
	// /proc/sys/net resolves by the network namespace of the calling thread.
	return s.do(func() error {
		err := os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0o644)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EROFS), errors.Is(err, os.ErrPermission):
			return fmt.Errorf("set %s=%s: %w (hint: /proc/sys is not writable here; a container needs --privileged)", key, value, err)
		default:
			return fmt.Errorf("set %s=%s: %w", key, value, err)
		}
	})
}

func (s *space) readSysctl(key string) (string, error) {
	path := key
	if !strings.Contains(key, "/") {
		path = strings.ReplaceAll(key, ".", "/")
	}
	var value string
	err := s.do(func() error {
		b, err := os.ReadFile(filepath.Join("/proc/sys", path))
		value = strings.TrimSpace(string(b))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read %s: %w", key, err)
	}
	return value, nil
}

// visit runs fn on a thread of its own that joined the network namespace for the time being,
// so calls from several goroutines run in parallel. Mounts are not joined: a thread that shares
// its working directory with the process cannot.
func (s *space) visit(fn func() error) error {
	// A copy, so that close cannot pull the descriptor away in between.
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return fmt.Errorf("namespace %q: %w", s.name, os.ErrClosed)
	}
	there, err := unix.FcntlInt(uintptr(s.fd), unix.F_DUPFD_CLOEXEC, 0)
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("copy descriptor of namespace %q: %w", s.name, err)
	}
	done := make(chan error, 1)
	go func() {
		var err error
		defer func() { done <- err }()
		defer unix.Close(there)
		runtime.LockOSThread()
		home, err1 := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err1 != nil {
			runtime.UnlockOSThread()
			err = fmt.Errorf("open own network namespace: %w", err1)
			return
		}
		defer unix.Close(home)
		if err1 := unix.Setns(there, unix.CLONE_NEWNET); err1 != nil {
			runtime.UnlockOSThread()
			err = namespaceHint(fmt.Errorf("join network namespace of %q: %w", s.name, err1))
			return
		}
		defer func() {
			// If the way back is barred the thread must not serve other goroutines: it stays
			// locked and ends with this one.
			if unix.Setns(home, unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
		}()
		err = fn()
	}()
	return <-done
}

// namespaceHint adds what an operator can do about a refused namespace call.
func namespaceHint(err error) error {
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOSPC) {
		return err
	}
	hint := "run as root"
	if errors.Is(err, unix.ENOSPC) {
		hint = "raise user.max_user_namespaces and user.max_net_namespaces"
	} else if b, e := os.ReadFile("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"); e == nil && strings.TrimSpace(string(b)) == "1" {
		hint = "run as root, or: sysctl kernel.apparmor_restrict_unprivileged_userns=0"
	} else if b, e := os.ReadFile("/proc/sys/kernel/unprivileged_userns_clone"); e == nil && strings.TrimSpace(string(b)) == "0" {
		hint = "run as root, or: sysctl kernel.unprivileged_userns_clone=1"
	}
	return fmt.Errorf("%w (hint: %s)", err, hint)
}
