// Package labtest fits internal/lab into Go tests: it skips or fails where namespaces cannot be
// made, and closes labs at the end of the test. It knows nothing of what is tested.
package labtest

import (
	"context"
	"log/slog"
	"os"
	"testing"
	"time"

	"lockstep/internal/lab"
)

// RequireRoot skips a test that needs root, and fails it in CI, where a skip would hide that
// nothing was tested.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("this test needs root, and CI is set")
	}
	t.Skip("this test needs root")
}

// New makes a lab that ends with the test. The test's name seeds it unless opts does.
func New(t testing.TB, opts lab.Options) *lab.Lab {
	t.Helper()
	RequireRoot(t)
	l, err := lab.New(context.Background(), withDefaults(t, opts))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeLab(t, l) })
	return l
}

// Pair makes the standard topology, which ends with the test.
func Pair(t testing.TB, opts lab.PairOptions) *lab.PairLab {
	t.Helper()
	RequireRoot(t)
	opts.Options = withDefaults(t, opts.Options)
	p, err := lab.Pair(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeLab(t, p.Lab) })
	return p
}

func closeLab(t testing.TB, l *lab.Lab) {
	if err := l.Close(); err != nil {
		t.Errorf("close lab: %v", err)
	}
}

func withDefaults(t testing.TB, opts lab.Options) lab.Options {
	if opts.Seed == 0 {
		for _, r := range t.Name() {
			opts.Seed = opts.Seed*131 + uint64(r)
		}
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return opts
}

// testWriter puts a lab's log into the test's; only while the test runs, which Cleanup ensures.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Helper()
	w.t.Log(string(b[:max(0, len(b)-1)]))
	return len(b), nil
}

// Eventually polls cond until it holds, and fails the test when it does not within limit. Use it
// instead of sleeping.
func Eventually(t testing.TB, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// RequirePrograms fails the test if a program is missing, saying what to install; see
// lab.CheckPrograms. It never skips: what was asked for and not tested must be seen.
func RequirePrograms(t testing.TB, programs ...string) {
	t.Helper()
	if err := lab.CheckPrograms(programs...); err != nil {
		t.Fatal(err)
	}
}
