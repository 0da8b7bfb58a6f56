package services

import (
	"os"
	"testing"

	"lockstep/internal/lab/traffic"
	"lockstep/internal/realservers"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// file is served content: Size bytes of a pattern, from which each byte's place can be told.
type file struct {
	name string
	size int64
}

func (f file) content() realservers.File { return realservers.File{Name: f.name, Size: f.size} }

func (f file) pattern() traffic.Pattern { return f.content().Pattern() }

// create writes the file into dir.
func (f file) create(t testing.TB, dir string) {
	t.Helper()
	if err := f.content().Create(dir); err != nil {
		t.Fatal(err)
	}
}

// check compares path with the file's bytes from offset from up to to.
func (f file) check(t testing.TB, path string, from, to int64) {
	t.Helper()
	if err := f.content().Check(path, from, to); err != nil {
		t.Error(err)
	}
}

// whole checks all of the file.
func (f file) whole(t testing.TB, path string) { t.Helper(); f.check(t, path, 0, f.size) }

// sizeOf is how much of a file is there so far; 0 if it is not.
func sizeOf(path string) int64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.Size()
}
