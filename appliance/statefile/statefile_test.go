package statefile

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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
	for _, content := range [][]byte{[]byte("one"), bytes.Repeat([]byte{7}, maxSize), {}, []byte("two")} {
		if err := f.Save(content); err != nil {
			t.Fatal(err)
		}
		got, err := f.Load()
		if err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%d bytes came back as %d, %v", len(content), len(got), err)
		}
	}
	if err := f.Save(make([]byte, maxSize+1)); err == nil {
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

// Whatever byte of it a failing disk changes, the file is refused; none is taken for
// something else that a voter may have promised.
func TestEveryByteIsCovered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "edge")
	f := open(t, path)
	content := []byte("LSV1 and what follows")
	if err := f.Save(content); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range headerLen + len(content) {
		spoilt := bytes.Clone(whole)
		spoilt[i] ^= 0x10
		if err := os.WriteFile(path, spoilt, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := f.Load()
		// Without its mark it is as one of an older build, whose reader looks for a mark
		// of its own.
		if err == nil && (i >= len(mark) || bytes.HasPrefix(got, content[:4])) {
			t.Errorf("byte %d changed: %q", i, got)
		}
	}
	for n := len(mark); n < headerLen+len(content); n++ {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := f.Load(); err == nil {
			t.Errorf("cut to %d bytes: %q", n, got)
		}
	}
}

// What a build before the checksum wrote is read.
func TestFileOfOlderBuild(t *testing.T) {
	path := filepath.Join(t.TempDir(), "edge")
	if err := os.WriteFile(path, []byte("LSV1 old"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := open(t, path)
	if got, err := f.Load(); err != nil || string(got) != "LSV1 old" {
		t.Errorf("%q, %v", got, err)
	}
}

// A disk that fills up after the start keeps Save from nothing; one that is full
// before is told by Check, until there is room again.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("this test needs root, and CI is set")
		}
		t.Skip("needs root to mount a file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=128k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	fill := func() string {
		t.Helper()
		name := filepath.Join(dir, "other")
		file, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		for err == nil {
			_, err = file.Write(make([]byte, 512))
		}
		return name
	}
	f := open(t, filepath.Join(dir, "edge"))
	if err := f.Save([]byte("before")); err != nil {
		t.Fatal(err)
	}
	others := fill()
	for _, content := range []string{"one", "two", "three"} {
		if err := f.Check(); err != nil {
			t.Fatal(err)
		}
		if err := f.Save([]byte(content)); err != nil {
			t.Fatal(err)
		}
		if got, err := f.Load(); err != nil || string(got) != content {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if err := os.Remove(others); err != nil {
		t.Fatal(err)
	}
	g := open(t, filepath.Join(dir, "late"))
	if err := os.Remove(filepath.Join(dir, "late.new")); err != nil {
		t.Fatal(err)
	}
	others = fill()
	if err := g.Check(); err == nil || !strings.Contains(err.Error(), "look at free space") {
		t.Errorf("full before there was room: %v", err)
	}
	if err := os.Remove(others); err != nil {
		t.Fatal(err)
	}
	if err := g.Check(); err != nil {
		t.Error(err)
	}
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
		{"huge", func(p string) error { return os.WriteFile(p, make([]byte, 2*maxSize), 0o600) }, "move it away"},
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
