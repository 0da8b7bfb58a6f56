package main

import (
	"context"
	"strings"
	"testing"
)

func TestEpoch(t *testing.T) {
	if at, err := epoch("1700000000"); err != nil || at.Unix() != 1_700_000_000 {
		t.Errorf("%v, %v", at, err)
	}
	for text, part := range map[string]string{"": "not set", "now": "not a number", "-1": "not a number", "99999999999": "not a number"} {
		if _, err := epoch(text); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q: %v, want %q", text, err, part)
		}
	}
}

func TestBuildSaysWhatIsMissing(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1")
	if err := run(context.Background(), []string{"-lock", t.TempDir() + "/none"}); err == nil || !strings.Contains(err.Error(), "read lock of Debian packages") {
		t.Errorf("no lock: %v", err)
	}
	if _, err := ramdisk(options{program: t.TempDir() + "/none"}, nil); err == nil || !strings.Contains(err.Error(), "make image") {
		t.Errorf("no program: %v", err)
	}
}
