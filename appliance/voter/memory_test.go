package voter

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"
	"time"

	"lockstep/replication/arbiter"
)

func TestMemory(t *testing.T) {
	for _, core := range [][]byte{nil, []byte("what raft must not forget")} {
		timeout, got, err := decodeMemory(encodeMemory(time.Second, core))
		if err != nil || timeout != time.Second || !bytes.Equal(got, core) || (got == nil) != (core == nil) {
			t.Errorf("%q came back as %v, %q, %v", core, timeout, got, err)
		}
	}
	if _, core, err := decodeMemory(nil); core != nil || err != nil {
		t.Errorf("no file: %q, %v", core, err)
	}
	for _, content := range []string{"", "x", "LSV1", "LSV11234567", "another file altogether"} {
		if _, _, err := decodeMemory([]byte(content)); !errors.Is(err, arbiter.ErrStored) {
			t.Errorf("%q: %v", content, err)
		}
	}
}

// A voter that had a longer failure_timeout keeps its promises of that time.
func TestOldPromise(t *testing.T) {
	v := &Voter{cfg: Config{FailureTimeout: 20 * time.Millisecond, Log: slog.New(slog.DiscardHandler)}, quit: make(chan struct{})}
	if !v.keepOldPromise(0) || !v.keepOldPromise(20*time.Millisecond) {
		t.Error("ended")
	}
	began := time.Now()
	if !v.keepOldPromise(60 * time.Millisecond) {
		t.Error("ended")
	}
	if waited := time.Since(began); waited < 40*time.Millisecond {
		t.Errorf("waited only %v", waited)
	}
	close(v.quit)
	if v.keepOldPromise(1 << 62) {
		t.Error("went on after the end")
	}
}
