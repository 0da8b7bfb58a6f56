package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Command is what Host.Start runs.
type Command struct {
	Name string // for logs and file names; default: the base name of Path
	Path string // a path, or a name looked up in PATH
	Args []string
	Env  []string // added to Environ
	// Environ is the environment to start from; nil: this process's.
	Environ []string
	Dir     string
	// Stdin: nil is /dev/null.
	Stdin io.Reader
	// Stdout and Stderr additionally receive the output; nil: only the ring and the log file.
	Stdout, Stderr io.Writer
	// LogFile receives both outputs. Default: LogDir/host-name-pid.log where the lab has a LogDir.
	LogFile string
}

// Proc is a process inside a host. It dies with the lab and with this process.
type Proc struct {
	name string
	host *Host
	cmd  *exec.Cmd
	ring *ring
	done chan struct{}
	err  error // valid after done
}

// ringSize is how much of a process's output is kept in memory, bytes.
const ringSize = 256 << 10

// Start runs a program inside the host's namespaces.
func (h *Host) Start(c Command) (*Proc, error) {
	return h.start(c, nil)
}

// start with setup called before the fork, for pipes.
func (h *Host) start(c Command, setup func(*exec.Cmd) error) (*Proc, error) {
	if c.Name == "" {
		c.Name = filepath.Base(c.Path)
	}
	cmd := exec.Command(c.Path, c.Args...)
	if c.Environ == nil {
		c.Environ = os.Environ()
	}
	cmd.Env = slices.Concat(c.Environ, c.Env, []string{EnvID + "=" + h.lab.id})
	cmd.Dir = c.Dir
	cmd.Stdin = c.Stdin
	cmd.SysProcAttr = &syscall.SysProcAttr{
		// Fires when the holder thread ends, so also when this process is killed.
		Pdeathsig: syscall.SIGKILL,
		// Ctrl-C in the terminal goes to the lab's owner, who ends things in order.
		Setpgid: true,
	}
	// A grandchild that holds the output open must not keep Wait from returning.
	cmd.WaitDelay = 2 * time.Second
	p := &Proc{name: c.Name, host: h, cmd: cmd, ring: &ring{}, done: make(chan struct{})}

	log := &lateFile{}
	if c.LogFile == "" && h.lab.opts.LogDir != "" {
		log.dir, log.prefix = h.lab.opts.LogDir, h.name+"-"+c.Name
	} else {
		log.path = c.LogFile
	}
	cmd.Stdout = tee(p.ring, log, c.Stdout)
	cmd.Stderr = tee(p.ring, log, c.Stderr)
	if setup != nil {
		if err := setup(cmd); err != nil {
			return nil, fmt.Errorf("start %q on %q: %w", c.Name, h.name, err)
		}
	}
	if err := h.space.do(cmd.Start); err != nil {
		return nil, fmt.Errorf("start %q on %q: %w", c.Name, h.name, err)
	}
	log.start(cmd.Process.Pid)
	go func() {
		p.err = cmd.Wait()
		log.close()
		close(p.done)
	}()
	if err := h.lab.add(p); err != nil {
		_ = p.Kill()
		<-p.done
		return nil, fmt.Errorf("start %q on %q: %w", c.Name, h.name, err)
	}
	h.lab.log.Debug("process started", "host", h.name, "name", c.Name, "pid", cmd.Process.Pid)
	return p, nil
}

// Name of the process.
func (p *Proc) Name() string { return p.name }

// Host it runs on.
func (p *Proc) Host() *Host { return p.host }

// PID of the process.
func (p *Proc) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal; a process that has ended gives os.ErrProcessDone.
func (p *Proc) Signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("signal %q: %w", p.name, err)
	}
	return nil
}

// Kill is SIGKILL.
func (p *Proc) Kill() error { return p.Signal(syscall.SIGKILL) }

// Finish kills one that may have ended already, and returns when it is gone.
func (p *Proc) Finish() {
	if p.Running() {
		_ = p.Kill()
		<-p.Done()
	}
}

// Stop freezes the process (SIGSTOP): it keeps its sockets and knows nothing of the time.
func (p *Proc) Stop() error { return p.Signal(syscall.SIGSTOP) }

// Cont lets it go on.
func (p *Proc) Cont() error { return p.Signal(syscall.SIGCONT) }

// Done is closed when the process has ended and its output is complete.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Err is why the process ended (nil: status 0); valid after Done.
func (p *Proc) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Running tells whether the process has not ended.
func (p *Proc) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Wait for the end.
func (p *Proc) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("wait for %q: %w", p.name, ctx.Err())
	}
}

// Terminate asks with SIGTERM, and kills when grace has passed.
func (p *Proc) Terminate(grace time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_ = p.Cont() // a frozen process cannot hear
	select {
	case <-p.done:
		return p.err
	case <-time.After(grace):
	}
	_ = p.Kill()
	<-p.done
	return fmt.Errorf("%q did not end within %v of SIGTERM", p.name, grace)
}

// Output is the end of what the process wrote to both outputs, up to 256 KiB.
func (p *Proc) Output() string { return p.ring.String() }

// Tail is the last n lines of Output.
func (p *Proc) Tail(n int) string {
	lines := strings.Split(strings.TrimRight(p.Output(), "\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}

func tee(ring io.Writer, log io.Writer, extra io.Writer) io.Writer {
	if extra == nil {
		return io.MultiWriter(ring, log)
	}
	return io.MultiWriter(ring, log, extra)
}

// ring keeps the last ringSize bytes written.
type ring struct {
	mu   sync.Mutex
	buf  []byte
	next int // where the oldest byte is, once buf is full
}

func (r *ring) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(b)
	if len(b) > ringSize {
		b = b[len(b)-ringSize:]
	}
	// Grow first: most processes write little.
	if grow := min(len(b), ringSize-len(r.buf)); grow > 0 {
		r.buf = append(r.buf, b[:grow]...)
		b = b[grow:]
	}
	for len(b) > 0 {
		k := copy(r.buf[r.next:], b)
		b = b[k:]
		r.next = (r.next + k) % ringSize
	}
	return n, nil
}

func (r *ring) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out bytes.Buffer
	out.Write(r.buf[r.next:])
	out.Write(r.buf[:r.next])
	return out.String()
}

// lateFile is a log file whose name may need the process ID, which is known only after output
// may have begun: until then it keeps what is written.
type lateFile struct {
	path, dir, prefix string

	mu      sync.Mutex
	pending []byte
	file    *os.File
	off     atomic.Bool // no file wanted, or it could not be opened: the ring has the output
}

func (l *lateFile) Write(b []byte) (int, error) {
	if l.off.Load() || (l.path == "" && l.dir == "") {
		return len(b), nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		if len(l.pending)+len(b) <= ringSize {
			l.pending = append(l.pending, b...)
		}
		return len(b), nil
	}
	if _, err := l.file.Write(b); err != nil {
		l.off.Store(true) // a full disk must not stop the process through a broken pipe
	}
	return len(b), nil
}

func (l *lateFile) start(pid int) {
	path := l.path
	if path == "" {
		if l.dir == "" {
			return
		}
		path = filepath.Join(l.dir, fmt.Sprintf("%s-%d.log", l.prefix, pid))
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.off.Store(true)
		return
	}
	l.file = f
	_, _ = f.Write(l.pending)
	l.pending = nil
}

func (l *lateFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
	l.off.Store(true)
}
