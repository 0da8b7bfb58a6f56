package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"time"

	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
	"lockstep/internal/realservers"
)

const (
	// lookEvery is how often the client's file is looked at: gaps are known to a millisecond.
	lookEvery = time.Millisecond
	// A client that lost its connection is run again, so often and after such a pause: until the
	// appliance knows that the server is down it may be sent there once more.
	maxAttempts  = 20
	attemptPause = 500 * time.Millisecond
)

// fetch is a real client program that fetches one file.
type fetch struct {
	host     *lab.Host
	program  string
	path     string
	args     []string
	dir      string // the client's
	out      string // its file
	origins  []string
	again    bool // run it again when it fails
	patience time.Duration
	say      func(format string, args ...any)

	arrived  atomic.Int64 // bytes of its file
	attempts atomic.Int64
	grown    atomic.Bool // since the newest attempt began
	status   *int        // the newest exit status; nil: none. Valid after run.
}

// makeReal gives each server its content, and makes the client.
func (l *load) makeReal(client *lab.Host, kind *service, opts options, dir string) error {
	f := &fetch{host: client, dir: filepath.Join(dir, "client"), again: opts.ofServer() && !opts.kept(), patience: l.patience}
	for _, s := range l.servers {
		server, err := kind.configure(dir, s.name())
		if err != nil {
			return fmt.Errorf("configure server %q: %w", s.name(), err)
		}
		if err := kind.ready(server); err != nil {
			return err
		}
		s.real = &server
		origin := contentOf(dir, s.name())
		if err := (realservers.File{Name: served, Size: opts.size}).Create(filepath.Dir(origin)); err != nil {
			return fmt.Errorf("write what server %q serves (hint: a smaller --size, or a larger TMPDIR): %w", s.name(), err)
		}
		f.origins = append(f.origins, origin)
	}
	if kind.rmem > 0 { // else all that it will play would be on the way long before the fault
		if err := client.Sysctl("net/ipv4/tcp_rmem", fmt.Sprintf("4096 131072 %d", kind.rmem)); err != nil {
			return err
		}
	}
	if err := os.Mkdir(f.dir, 0o755); err != nil {
		return err
	}
	f.out = filepath.Join(f.dir, served)
	f.program, f.args = kind.client(kind.url, f.out)
	var err error
	f.path, err = lab.FindProgram(f.program)
	l.fetch = f
	return err
}

// resumed tells whether the program was run again and is getting on.
func (f *fetch) resumed() bool { return f.attempts.Load() > 1 && f.grown.Load() }

// run fetches the file, and compares it with what each server has.
func (f *fetch) run(ctx context.Context) (r traffic.Result) {
	var meter traffic.Meter
	begin := time.Now()
	err := f.attempt(ctx, &meter)
	for err != nil && f.again && ctx.Err() == nil && f.attempts.Load() < maxAttempts {
		f.say("%v; it is run again", err)
		select {
		case <-ctx.Done():
		case <-time.After(attemptPause):
			err = f.attempt(ctx, &meter)
		}
	}
	r.Total = time.Since(begin)
	r.Down, r.Downs = meter.Gaps()
	for _, origin := range f.origins {
		if err == nil {
			r.Received, err = compare(f.out, origin)
		}
	}
	if r.Intact = err == nil; err != nil {
		r.Received, r.Error = 0, err.Error()
	}
	return r
}

// attempt runs the program once, and watches its file grow.
func (f *fetch) attempt(ctx context.Context, meter *traffic.Meter) error {
	f.grown.Store(false)
	f.attempts.Add(1)
	p, err := f.host.Start(lab.Command{Name: f.program, Path: f.path, Args: f.args, Dir: f.dir,
		Environ: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + f.dir, "LC_ALL=C"}}) // nobody's settings
	if err != nil {
		return err
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case now := <-tick.C:
			if f.look(meter, now) {
				last = now
			} else if now.Sub(last) > f.patience {
				_ = p.Kill()
				<-p.Done()
				return fmt.Errorf("%s has got nothing for %v", f.program, f.patience)
			}
		case <-p.Done():
			f.look(meter, time.Now())
			return f.ended(p)
		case <-ctx.Done():
			_ = p.Kill()
			<-p.Done()
			return ctx.Err()
		}
	}
}

// look tells whether the file has grown.
func (f *fetch) look(meter *traffic.Meter, now time.Time) bool {
	st, err := os.Stat(f.out)
	if err != nil || st.Size() <= f.arrived.Load() {
		return false
	}
	f.arrived.Store(st.Size())
	f.grown.Store(true)
	meter.Tick(now)
	return true
}

// ended is what the program's exit status says.
func (f *fetch) ended(p *lab.Proc) error {
	status := 0
	err := p.Err()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status = exit.ExitCode()
	}
	if f.status = &status; err != nil {
		return fmt.Errorf("%s: %w: %s", f.program, err, p.Tail(1))
	}
	return nil
}

// compare tells whether two files are alike, byte for byte, and how many they have.
func compare(a, b string) (n int64, err error) {
	fa, err := os.Open(a)
	if err != nil {
		return 0, err
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		return 0, err
	}
	defer fb.Close()
	const size = 256 << 10
	ra, rb := bufio.NewReaderSize(fa, size), bufio.NewReaderSize(fb, size)
	for {
		pa, errA := ra.Peek(size)
		pb, errB := rb.Peek(size)
		if errA != nil && errA != io.EOF || errB != nil && errB != io.EOF {
			return n, fmt.Errorf("compare the client's file with %s: %w", b, errors.Join(errA, errB))
		}
		for i := range min(len(pa), len(pb)) {
			if pa[i] != pb[i] {
				return n, fmt.Errorf("the byte at %d is not what %s has", n+int64(i), b)
			}
		}
		if len(pa) != len(pb) {
			return n, fmt.Errorf("the client's file has %d bytes or more, %s has not so many, or more", n+int64(min(len(pa), len(pb))), b)
		}
		if len(pa) == 0 {
			return n, nil
		}
		n += int64(len(pa))
		_, _ = ra.Discard(len(pa))
		_, _ = rb.Discard(len(pb))
	}
}
