package bench

import (
	"os"
	"slices"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	got, err := parseStat([]byte("cpu  100 20 30 4000 500 6 7 8 90 10\ncpu0 1 2 3\n"))
	// Neither idle nor iowait is work, and guests must not count twice.
	if want := (machine{1630 * time.Millisecond, 80 * time.Millisecond}); err != nil || got != want {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	for _, bad := range []string{"", "cpu 1 2 3", "intr 1 2 3 4 5 6 7 8", "cpu a b c d e f g h"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: accepted", bad)
		}
	}
}

func TestParseRSS(t *testing.T) {
	got, err := parseRSS([]byte("Name:\tx\nVmHWM:\t   9999 kB\nVmRSS:\t   1234 kB\nThreads:\t1\n"))
	if err != nil || got != 1234<<10 {
		t.Errorf("resident %d, %v", got, err)
	}
	if _, err := parseRSS([]byte("Name:\tx\nState:\tZ (zombie)\n")); err == nil {
		t.Error("a zombie has no memory")
	}
}

func TestParseParent(t *testing.T) {
	if p, ok := parseParent([]byte("77 (a) b (c) S 42 1 1 0 -1")); !ok || p != 42 {
		t.Errorf("parent %d, %v", p, ok)
	}
	for _, bad := range []string{"", "77", "77 (x) S", "77 (x) S x"} {
		if _, ok := parseParent([]byte(bad)); ok {
			t.Errorf("%q: accepted", bad)
		}
	}
}

func TestSnapshotKnowsItsChildren(t *testing.T) {
	if slices.Contains(children(), os.Getpid()) {
		t.Error("a process is not its own child")
	}
	before, err := takeSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	others, err := before.othersSince()
	if err != nil || others < 0 {
		t.Errorf("others %v, %v", others, err)
	}
}

func TestCPUTimeOfThisProcess(t *testing.T) {
	first, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		now, err := cpuTime(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if now > first {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("CPU time stands at %v while this loop runs", now)
		}
	}
	if m, err := residentMemory(os.Getpid()); err != nil || m < 1<<20 {
		t.Errorf("resident %d, %v", m, err)
	}
}
