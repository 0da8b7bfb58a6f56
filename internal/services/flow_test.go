package services

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/internal/lab"
)

// A transfer must be under way when something is killed, on a fast machine and on a busy one. So
// the client program writes to a sink, or reads from a feed, which from a certain byte on is slow
// until it is let go: TCP's windows close and the whole way to the server waits.

// brake slows a flow down. Its methods may be called from several goroutines.
type brake struct {
	from    int64         // the byte from which on it is slow
	reached chan struct{} // closed there
	free    chan struct{} // closed when it is let go; shared by all flows of a round
	once    sync.Once
}

// slowPiece is what a feed lets pass in slowPause, bytes; a sink, what its program writes at once.
const (
	slowPiece = 16 * kib
	slowPause = 100 * time.Millisecond
)

func newBrake(from int64, free chan struct{}) brake {
	return brake{from: from, reached: make(chan struct{}), free: free}
}

// pass waits, if the flow has come to at.
func (b *brake) pass(at int64) {
	if at < b.from {
		return
	}
	b.once.Do(func() { close(b.reached) })
	select {
	case <-b.free:
	case <-time.After(slowPause):
	}
}

// there reports whether the flow has come to the brake.
func (b *brake) there() bool {
	select {
	case <-b.reached:
		return true
	default:
		return false
	}
}

// part is a piece of a file.
type part struct {
	file
	from, to int64
}

func (f file) all() part                 { return part{f, 0, f.size} }
func (f file) piece(from, to int64) part { return part{f, from, to} }
func (p part) len() int64                { return p.to - p.from }

// sink takes what a client program writes and compares it with what it should be.
type sink struct {
	brake
	want []part

	mu   sync.Mutex
	at   int64 // bytes taken
	part int   // of want, and
	off  int64 // how much of it was there
	err  error // the first wrong byte
}

func newSink(from int64, free chan struct{}, want ...part) *sink {
	return &sink{brake: newBrake(from, free), want: want}
}

// Write implements io.Writer. It never fails: the program is not to notice.
func (s *sink) Write(b []byte) (int, error) {
	s.mu.Lock()
	n := len(b)
	s.at += int64(n)
	at := s.at
	for len(b) > 0 && s.err == nil {
		b = s.compare(b)
	}
	s.mu.Unlock()
	s.pass(at)
	return n, nil
}

func (s *sink) compare(b []byte) (rest []byte) {
	for s.part < len(s.want) && s.off == s.want[s.part].len() {
		s.part, s.off = s.part+1, 0
	}
	if s.part == len(s.want) {
		s.err = fmt.Errorf("%d bytes more than expected", len(b))
		return nil
	}
	p := s.want[s.part]
	n := min(int64(len(b)), p.len()-s.off)
	if i := p.pattern().Verify(b[:n], uint64(p.from+s.off)); i >= 0 {
		s.err = fmt.Errorf("part %d, %s: the byte at %d is wrong", s.part, p.name, p.from+s.off+int64(i))
		return nil
	}
	s.off += n
	return b[n:]
}

// check tells what is wrong with what has come. Every byte must be there.
func (s *sink) check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all int64
	for _, p := range s.want {
		all += p.len()
	}
	switch {
	case s.err != nil:
		return s.err
	case s.at != all:
		return fmt.Errorf("%d bytes have come, not %d", s.at, all)
	}
	return nil
}

// feed gives a file's bytes to a client program that uploads them.
type feed struct {
	brake
	file
	at int64
}

func newFeed(from int64, free chan struct{}, f file) *feed {
	return &feed{brake: newBrake(from, free), file: f}
}

// Read implements io.Reader, for one goroutine.
func (f *feed) Read(b []byte) (int, error) {
	if f.at == f.size {
		return 0, io.EOF
	}
	f.pass(f.at)
	b = b[:min(int64(len(b)), f.size-f.at, slowPiece)]
	f.pattern().Fill(b, uint64(f.at))
	f.at += int64(len(b))
	return len(b), nil
}

// grown is the progress of a program that writes files itself: those of dir whose name contains
// name have size bytes together. Then its processes are stopped, until they are let go.
type grown struct {
	dir, name string
	size      int64
	proc      *lab.Proc
	stopped   bool
}

func (g *grown) there() bool {
	if g.stopped {
		return true
	}
	entries, err := os.ReadDir(g.dir)
	if err != nil {
		return false
	}
	var all int64
	for _, e := range entries {
		if strings.Contains(e.Name(), g.name) {
			all += sizeOf(filepath.Join(g.dir, e.Name()))
		}
	}
	g.stopped = all >= g.size && unix.Kill(-g.proc.PID(), unix.SIGSTOP) == nil
	return g.stopped
}
