package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
)

// envRole names the role a re-executed process is to play.
const envRole = "LSLAB_ROLE"

// maxLine bounds one JSON line between a role and its parent, bytes.
const maxLine = 16 << 20

// Role is a piece of this very program that runs as a process of its own inside a host. It ends
// when ctx ends (its parent closed its input or vanished, or SIGTERM) or when it is done.
type Role func(ctx context.Context, r *RoleIO) error

// Roles by name. The names must be known to main, so there is one table per program.
type Roles map[string]Role

// RoleIO is a role's connection to its parent.
type RoleIO struct {
	// Args as given to Host.Go.
	Args json.RawMessage
	// Messages from RoleProc.Send; closed when the parent closes its end.
	Messages <-chan json.RawMessage

	mu  sync.Mutex
	out *json.Encoder
}

// Emit sends one event to the parent. Safe for concurrent use.
func (r *RoleIO) Emit(event any) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.out.Encode(event); err != nil {
		return fmt.Errorf("emit event: %w", err)
	}
	return nil
}

// Main is to be called first in main and in TestMain. In an ordinary process it returns at once.
// In a process started by Host.Go it plays the role and exits.
func Main(roles Roles) {
	name, ok := os.LookupEnv(envRole)
	if !ok {
		return
	}
	os.Unsetenv(envRole) // children of the role are ordinary processes
	role, ok := roles[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "lab: no role %q in this program (hint: name it in lab.Main)\n", name)
		os.Exit(2)
	}
	if err := play(role); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintf(os.Stderr, "lab: role %q: %v\n", name, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func play(role Role) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in := newLineReader(os.Stdin)
	args, err := in.next()
	if err != nil {
		return fmt.Errorf("read arguments: %w", err)
	}
	messages := make(chan json.RawMessage, 16)
	// This goroutine ends with the process: a blocked read of stdin cannot be called off.
	go func() {
		defer cancel()
		defer close(messages)
		for {
			m, err := in.next()
			if err != nil {
				return
			}
			select {
			case messages <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	return role(ctx, &RoleIO{Args: args, Messages: messages, out: json.NewEncoder(os.Stdout)})
}

// RoleProc is a role running inside a host.
type RoleProc struct {
	*Proc
	events chan json.RawMessage

	mu sync.Mutex
	in io.WriteCloser
}

// Go starts a role of this program (see Main) as a process inside the host. Its standard error
// goes to the ring and the log file.
func (h *Host) Go(role string, args any) (*RoleProc, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start role %q on %q: find own executable: %w", role, h.name, err)
	}
	line, err := json.Marshal(args)
	if err != nil {
		return nil, fmt.Errorf("start role %q on %q: encode arguments: %w", role, h.name, err)
	}
	if len(line) >= maxLine {
		return nil, fmt.Errorf("start role %q on %q: arguments of %d bytes are too long", role, h.name, len(line))
	}
	r := &RoleProc{events: make(chan json.RawMessage, 1024)}
	var out *os.File // read end of the child's stdout
	var childOut *os.File
	r.Proc, err = h.start(Command{Name: role, Path: self, Env: []string{envRole + "=" + role}},
		func(cmd *exec.Cmd) error {
			// A pipe of our own: exec would copy stdout into a Writer, but a slow consumer of
			// events must slow down the child alone, not Wait.
			if out, childOut, err = os.Pipe(); err != nil {
				return err
			}
			cmd.Stdout = childOut
			r.in, err = cmd.StdinPipe()
			return err
		})
	if childOut != nil {
		childOut.Close()
	}
	if err != nil {
		if out != nil {
			out.Close()
		}
		return nil, err
	}
	go r.readEvents(out)
	if err := r.sendLine(line); err != nil {
		_ = r.Kill()
		return nil, fmt.Errorf("start role %q on %q: %w", role, h.name, err)
	}
	return r, nil
}

// Events are what the role emits, in order; closed when its output ends.
func (r *RoleProc) Events() <-chan json.RawMessage { return r.events }

// Send passes a message to the role.
func (r *RoleProc) Send(message any) error {
	line, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("encode message to %q: %w", r.name, err)
	}
	return r.sendLine(line)
}

func (r *RoleProc) sendLine(line []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.in.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("send to %q: %w", r.name, err)
	}
	return nil
}

// End closes the role's input, which asks it to finish.
func (r *RoleProc) End() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.in.Close()
}

// Next decodes the next event into v.
func (r *RoleProc) Next(ctx context.Context, v any) error {
	select {
	case m, ok := <-r.events:
		if !ok {
			return fmt.Errorf("role %q ended: %w; its last words:\n%s", r.name, io.EOF, r.Tail(10))
		}
		if err := json.Unmarshal(m, v); err != nil {
			return fmt.Errorf("decode event of %q: %w", r.name, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for event of %q: %w", r.name, ctx.Err())
	}
}

func (r *RoleProc) readEvents(out *os.File) {
	defer close(r.events)
	defer out.Close()
	in := newLineReader(out)
	for {
		m, err := in.next()
		if err != nil {
			return
		}
		select {
		case r.events <- m:
		case <-r.host.lab.ctx.Done():
			return
		}
	}
}

// lineReader splits JSON lines of bounded length.
type lineReader struct{ s *bufio.Scanner }

func newLineReader(r io.Reader) *lineReader {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), maxLine)
	return &lineReader{s}
}

func (l *lineReader) next() (json.RawMessage, error) {
	if !l.s.Scan() {
		if err := l.s.Err(); err != nil {
			return nil, err
		}
		return nil, io.EOF
	}
	return append(json.RawMessage(nil), l.s.Bytes()...), nil
}
