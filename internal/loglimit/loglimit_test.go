package loglimit

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// text is a buffer that a timer's goroutine may write to.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (t *text) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(p)
}

func (t *text) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}

func logger() (*slog.Logger, *Handler, *text) {
	b := &text{}
	h := New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
	return slog.New(h), h, b
}

func lines(b *text, part string) int { return strings.Count(b.String(), part) }

// Each source is heard once a minute, and what was kept back is told.
func TestPerSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, h, b := logger()
		node := log.With("node", "a")
		for i := range 5000 {
			node.Warn("claimed", "mac", i%2, Per(fmt.Sprint(i%2)))
		}
		if got := b.String(); lines(b, "msg=claimed node=a mac=0\n") != 1 || lines(b, "\n") != 2 {
			t.Fatalf("the log is %q", got)
		}
		time.Sleep(period)
		synctest.Wait()
		if lines(b, "\n") != 3 || lines(b, "node=a line=claimed kept_back=4998 within=1m0s") != 1 {
			t.Fatalf("the log is %q", b.String())
		}
		node.Warn("claimed", "mac", 0, Per("0"))
		if lines(b, "\n") != 4 {
			t.Fatalf("the next minute has no line: %q", b.String())
		}
		h.Close()
	})
}

// Who invents a new source for each line does not get further than a few.
func TestManySources(t *testing.T) {
	log, h, b := logger()
	for i := range 5000 {
		log.Warn("claimed", Per(fmt.Sprint(i)))
	}
	h.Close()
	if lines(b, "msg=claimed\n") != maxSources || lines(b, "kept_back=4992") != 1 {
		t.Fatalf("the log is %q", b.String())
	}
}

// A line that nobody thought of is limited as well; others are not, nor is what an
// operator asked for.
func TestForgotten(t *testing.T) {
	log, h, b := logger()
	for i := range 1000 {
		log.Info("session lost", "i", i)
		log.Info("connection", Unlimited())
		log.Debug("packet", "i", i)
	}
	log.Info("took over")
	h.Close()
	for part, want := range map[string]int{
		"session lost\" i=": maxLines, "msg=connection\n": 1000, "msg=packet": 1000, "took over": 1, "kept_back=940": 1,
	} {
		if got := lines(b, part); got != want {
			t.Errorf("%q is in the log %d times, want %d", part, got, want)
		}
	}
}

// Messages made of what comes from outside do not make the table grow.
func TestManyMessages(t *testing.T) {
	log, h, b := logger()
	for i := range 5000 {
		log.Warn(fmt.Sprint("message ", i))
	}
	if n := len(h.all.m); n > maxKinds+1 {
		t.Errorf("%d messages are told apart", n)
	}
	if n := lines(b, "\n"); n > maxKinds+maxLines {
		t.Errorf("%d lines", n)
	}
	h.Close()
}
