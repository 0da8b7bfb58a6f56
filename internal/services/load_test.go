package services

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/internal/lab"
)

// load is what clients do at the same time. A fault comes when all of them are in the middle of
// it; then they are let go.
type load struct {
	*bed
	free    chan struct{} // closed when the fault has come
	clients []*client
}

// progress tells whether a client is in the middle of what it does.
type progress interface{ there() bool }

// input is what a client program reads.
type input interface {
	io.Reader
	progress
}

// output is where a client program writes to.
type output interface {
	io.Writer
	progress
	check() error // whether all is as it should be
}

// client is one client program.
type client struct {
	name string
	proc *lab.Proc
	stop progress
	out  output // nil: none
	err  *notes
	more func() // checked at the end; nil: nothing
}

func (b *bed) load() *load { return &load{bed: b, free: make(chan struct{})} }

// run starts a client program. in and out may be nil; without both the caller sets stop.
func (l *load) run(name string, in input, out output, program string, args ...string) *client {
	l.t.Helper()
	path, err := lab.FindProgram(program)
	if err != nil {
		l.t.Fatal(err)
	}
	c := &client{name: name, out: out, err: &notes{}}
	cmd := lab.Command{Path: path, Args: args, Dir: l.dir("client"), Environ: l.environ(), Stderr: c.err}
	if out != nil {
		cmd.Stdout, c.stop = out, out
	}
	if in != nil {
		cmd.Stdin, c.stop = in, in
	}
	if c.proc, err = l.Client.Start(cmd); err != nil {
		l.t.Fatal(err)
	}
	l.clients = append(l.clients, c)
	return c
}

// through lets fault come in the middle of everything, and waits until all have what they wanted.
func (l *load) through(fault func()) {
	l.t.Helper()
	l.underWay()
	fault()
	l.finish()
}

// lostBy lets fault come in the middle of everything, after which every client must be told that
// it has lost its server.
func (l *load) lostBy(fault func()) {
	l.t.Helper()
	l.underWay()
	fault()
	l.letGo()
	for _, c := range l.clients {
		if err := l.wait(c); err == nil {
			l.t.Errorf("%s has lost its server and noticed nothing:\n%s", c.name, c.err)
		}
	}
}

// underWay waits until every client is in the middle of what it does.
func (l *load) underWay() {
	l.t.Helper()
	l.Await("every transfer is under way", func() bool {
		l.mustRun()
		all := true
		for _, c := range l.clients { // each is asked: some are held when they are
			all = c.stop.there() && all
		}
		return all
	})
}

// letGo lets all clients go on.
func (l *load) letGo() {
	close(l.free)
	for _, c := range l.clients {
		// Those that were stopped, see grown. The others do not mind.
		_ = unix.Kill(-c.proc.PID(), unix.SIGCONT)
	}
}

// mustRun ends the test if a client has ended.
func (l *load) mustRun() {
	l.t.Helper()
	for _, c := range l.clients {
		if !c.proc.Running() {
			l.t.Fatalf("%s has ended too early: %v\n%s", c.name, c.proc.Err(), c.err)
		}
	}
}

// finish lets all clients go, and checks what they have got.
func (l *load) finish() {
	l.t.Helper()
	l.letGo()
	for _, c := range l.clients {
		if err := l.wait(c); err != nil {
			l.t.Errorf("%s: %v\n%s", c.name, err, c.err)
			continue
		}
		if c.out != nil {
			if err := c.out.check(); err != nil {
				l.t.Errorf("%s: %v", c.name, err)
			}
		}
		if c.more != nil {
			c.more()
		}
	}
}

// wait for a client's end, which must come.
func (l *load) wait(c *client) error {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	err := c.proc.Wait(ctx)
	if ctx.Err() != nil {
		l.t.Fatalf("%s does not end:\n%s", c.name, c.err)
	}
	return err
}

// notes are what a program has said on its standard error.
type notes struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer. Nobody needs more than the first 64 KiB.
func (n *notes) Write(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.buf.Len() < 64*kib {
		n.buf.Write(b)
	}
	return len(b), nil
}

func (n *notes) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.TrimSpace(n.buf.String())
}
