package statefile

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func open(t *testing.T, path string) *File {
	t.Helper()
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestSaveAndLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "dir", "edge")
	f := open(t, path)
	if got, err := f.Load(); got != nil || err != nil {
		t.Fatalf("before the first save: %q, %v", got, err)
	}
	for _, content := range [][]byte{[]byte("one"), bytes.Repeat([]byte{7}, MaxSize), {}, []byte("two")} {
		if err := f.Save(content); err != nil {
			t.Fatal(err)
		}
		got, err := f.Load()
		if err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%d bytes came back as %d, %v", len(content), len(got), err)
		}
	}
	if err := f.Save(make([]byte, MaxSize+1)); err == nil {
		t.Error("saved more than MaxSize")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory's mode %v, %v", info.Mode(), err)
	}
	f.Close()
	again := open(t, path) // as after a restart
	if got, err := again.Load(); err != nil || string(got) != "two" {
		t.Errorf("after a restart: %q, %v", got, err)
	}
}

// A crash in the middle of Save leaves a part of the new content beside the file.
func TestHalfWrittenIsIgnored(t *testing.T) {
	path := filepath.Join(t.TempDir(), "edge")
	f := open(t, path)
	if err := f.Save([]byte("whole")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte("ha"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Load(); err != nil || string(got) != "whole" {
		t.Errorf("%q, %v", got, err)
	}
	if err := f.Save([]byte("next")); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Load(); err != nil || string(got) != "next" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestOneProcessAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "edge")
	f := open(t, path)
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("opened twice: %v", err)
	}
	f.Close()
	open(t, path)
}

func TestErrorsSayWhatToDo(t *testing.T) {
	cases := []struct {
		name   string
		spoil  func(path string) error
		advice string
	}{
		{"a directory", func(p string) error { return os.Mkdir(p, 0o700) }, "move it away"},
		{"a link", func(p string) error { return os.Symlink("/dev/null", p) }, "no link"},
		{"open to others", func(p string) error {
			if err := os.WriteFile(p, nil, 0o600); err != nil {
				return err
			}
			return os.Chmod(p, 0o666)
		}, "chmod 600"},
		{"huge", func(p string) error { return os.WriteFile(p, make([]byte, MaxSize+1), 0o600) }, "move it away"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "edge")
			f := open(t, path)
			if err := c.spoil(path); err != nil {
				t.Fatal(err)
			}
			if _, err := f.Load(); err == nil || !strings.Contains(err.Error(), c.advice) {
				t.Errorf("%v, want advice %q", err, c.advice)
			}
		})
	}
	dir := t.TempDir()
	inTheWay := filepath.Join(dir, "file")
	if err := os.WriteFile(inTheWay, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(inTheWay, "edge")); err == nil || !strings.Contains(err.Error(), "configure another one") {
		t.Errorf("a file where the directory should be: %v", err)
	}
	f := open(t, filepath.Join(dir, "sub", "edge"))
	if err := os.RemoveAll(filepath.Join(dir, "sub")); err != nil {
		t.Fatal(err)
	}
	if err := f.Save([]byte("x")); err == nil || !strings.Contains(err.Error(), "look at free space and permissions") {
		t.Errorf("the directory is gone: %v", err)
	}
}
