package realservers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/internal/lab"
)

// Server is how a server is started, in the foreground.
type Server struct {
	Program string // see lab.FindProgram
	Package string // of Debian's, that has it
	Port    int    // TCP, of all addresses
	Args    []string
}

// Daemon is a running server, with all its processes.
type Daemon struct {
	*lab.Proc // the parent of all
}

// endLimit is how long the kernel may take to end killed processes, on a busy machine.
const endLimit = 20 * time.Second

// pollEvery is how often somebody looks whether a server listens, or is gone.
const pollEvery = 5 * time.Millisecond

// Start runs the server on a host, and returns when it listens. log is a file for its output;
// empty: as the lab has it.
func (s Server) Start(ctx context.Context, host *lab.Host, log string) (*Daemon, error) {
	if err := lab.CheckPrograms(s.Program + ":" + s.Package); err != nil {
		return nil, err
	}
	path, err := lab.FindProgram(s.Program)
	if err != nil {
		return nil, err
	}
	// A shell is the first process of a PID namespace: when it dies the kernel kills all others. It
	// dies with unshare, and so with this program. (The server itself would not: who gives up root is
	// not told of its parent's death any more.)
	args := append([]string{"--pid", "--fork", "--kill-child", "--mount-proc", "--", "sh", "-c", `"$0" "$@" & wait $!`, path}, s.Args...)
	proc, err := host.Start(lab.Command{Name: s.Program, Path: "unshare", Args: args, LogFile: log})
	if err != nil {
		return nil, err
	}
	d := &Daemon{proc}
	if err := s.listens(ctx, d); err != nil {
		return nil, errors.Join(err, d.Kill())
	}
	return d, nil
}

// listens waits until the server does.
func (s Server) listens(ctx context.Context, d *Daemon) error {
	for {
		dial, cancel := context.WithTimeout(ctx, time.Second)
		conn, err := d.Host().DialContext(dial, "tcp", fmt.Sprintf("127.0.0.1:%d", s.Port))
		cancel()
		if err == nil {
			return conn.Close()
		}
		select {
		case <-d.Done():
			return fmt.Errorf("%s on %s has ended: %v\n%s", s.Program, d.Host().Name(), d.Err(), d.Tail(20))
		case <-ctx.Done():
			return fmt.Errorf("%s on %s does not listen (%w): %w\n%s", s.Program, d.Host().Name(), ctx.Err(), err, d.Tail(20))
		case <-time.After(pollEvery):
		}
	}
}

// Kill ends all processes of the server at once (SIGKILL). Nobody is left when it returns, and the
// kernel has ended their connections. A server that has ended is no error.
func (d *Daemon) Kill() error {
	// The group has unshare and the first process of the namespace, whose end is the end of all.
	err := unix.Kill(-d.PID(), unix.SIGKILL)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill the processes of %s: %w", d.Name(), err)
	}
	<-d.Done()
	for begin := time.Now(); !errors.Is(unix.Kill(-d.PID(), 0), unix.ESRCH); {
		if time.Since(begin) > endLimit {
			return fmt.Errorf("processes of %s are left %v after SIGKILL", d.Name(), endLimit)
		}
		time.Sleep(pollEvery)
	}
	return nil
}
