package volume

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"
	"github.com/google/go-cmp/cmp"
)

func tree() Tree {
	return Tree{
		ApplianceFile: []byte("node: a\n"), NetworkFile: []byte("version: 2\n"), MetaFile: []byte("local-hostname: x\n"),
		"keys/node.key": []byte("secret"), "keys/peers/b.crt": []byte("certificate\n"),
	}
}

func TestISO(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.iso")
	if err := os.WriteFile(path, []byte("what was there"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := WriteISO(path, tree()); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 || info.Size() > 1<<20 {
		t.Errorf("the volume is %v, %v", info, err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".volume-*")); left != nil {
		t.Errorf("left behind: %v", left)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if kind, label, err := Identify(f); kind != KindISO || !strings.EqualFold(label, ConfigLabel) || err != nil {
		t.Errorf("it is a %s called %q, %v", kind, label, err)
	}
	fsys, err := iso9660.Read(file.New(f, true), info.Size(), 0, isoBlock)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Read(fsys, ".")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, tree()); diff != "" {
		t.Error(diff)
	}
}

func TestIdentify(t *testing.T) {
	dir := t.TempDir()
	make := func(name string, size int64, program string, args ...string) *os.File {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		if program != "" {
			tool, err := exec.LookPath(program)
			if err != nil {
				tool = "/sbin/" + program
			}
			if _, err := os.Stat(tool); err != nil {
				if os.Getenv("CI") != "" {
					t.Fatalf("%s is not installed", program)
				}
				t.Skipf("%s is not installed", program)
			}
			if out, err := exec.Command(tool, append(args, path)...).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	for _, c := range []struct {
		name    string
		size    int64
		program string
		args    []string
		kind    Kind
		label   string
	}{
		{"zeros", 1 << 20, "", nil, "", ""},
		{"tiny", 100, "", nil, "", ""},
		{"fat12", 1 << 20, "mformat", []string{"-v", "CIDATA", "::", "-i"}, KindFAT, "CIDATA"},
		{"fat32", 64 << 20, "mformat", []string{"-F", "-c", "1", "-v", "LOCKSTEP", "::", "-i"}, KindFAT, "LOCKSTEP"},
		{"ext4", 16 << 20, "mke2fs", []string{"-q", "-t", "ext4", "-L", StateLabel}, KindExt4, StateLabel},
	} {
		t.Run(c.name, func(t *testing.T) {
			kind, label, err := Identify(make(c.name, c.size, c.program, c.args...))
			if kind != c.kind || label != c.label || (c.kind == "") != errors.Is(err, errUnknown) {
				t.Errorf("a %s called %q, %v", kind, label, err)
			}
		})
	}
	// A partition table ends as a boot sector does.
	mbr := bytes.Repeat([]byte{0}, 1<<20)
	copy(mbr[510:], "\x55\xaa")
	if kind, _, err := Identify(bytes.NewReader(mbr)); !errors.Is(err, errUnknown) {
		t.Errorf("a partition table is a %s, %v", kind, err)
	}
}

func TestReadTree(t *testing.T) {
	m := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	fsys := fstest.MapFS{
		"LOCKSTEP/LOCKSTEP.YAML":    m("node: a"),
		"LOCKSTEP/keys/Peers/B.CRT": m("crt"),
		"LOCKSTEP/other/x":          m("somebody else's"),
		"LOCKSTEP/user-data":        m("#cloud-config\n"),
		"lockstep.yaml":             m("outside"),
	}
	got, err := Read(fsys, "LOCKSTEP")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, Tree{ApplianceFile: []byte("node: a"), "keys/peers/b.crt": []byte("crt")}); diff != "" {
		t.Error(diff)
	}
	if got, err := Read(fsys, "none"); err != nil || len(got) != 0 {
		t.Errorf("a missing directory: %v, %v", got, err)
	}
	fsys["LOCKSTEP/lockstep.yaml"] = m("twice")
	if _, err := Read(fsys, "LOCKSTEP"); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("two files of one name: %v", err)
	}
	large := fstest.MapFS{"network-config": &fstest.MapFile{Data: make([]byte, maxBytes+1)}}
	if _, err := Read(large, "."); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("a large file: %v", err)
	}
}

func TestBundle(t *testing.T) {
	data, err := tree().Bundle()
	if err != nil {
		t.Fatal(err)
	}
	got := Tree{UserFile: data}
	if err := got.Unbundle(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, tree()); diff != "" {
		t.Error(diff)
	}
	for name, c := range map[string]struct{ text, part string }{
		"not YAML":     {"#lockstep\n- x\n", "mapping"},
		"other file":   {"#lockstep\n/etc/passwd: x\n", "no file of an appliance"},
		"itself":       {"#lockstep\nuser-data: x\n", "no file of an appliance"},
		"other marker": {"#lockstepper\nx: y\n", "first line"},
		"large":        {"#lockstep\n" + strings.Repeat("#", maxBundle), "larger"},
	} {
		if err := (Tree{UserFile: []byte(c.text)}).Unbundle(); err == nil || !strings.Contains(err.Error(), c.part) {
			t.Errorf("%s: %v, want %q", name, err, c.part)
		}
	}
	both := Tree{UserFile: data, MetaFile: []byte("x")}
	if err := both.Unbundle(); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("a file beside its bundle: %v", err)
	}
}

func FuzzIdentify(f *testing.F) {
	f.Add([]byte("\xeb\x3c\x90"), int64(510))
	f.Fuzz(func(t *testing.T, data []byte, at int64) {
		b := make([]byte, 40<<10)
		if at >= 0 && at < int64(len(b)) {
			copy(b[at:], data)
		}
		kind, label, err := Identify(bytes.NewReader(b))
		if (err == nil) == (kind == "") || len(label) > 32 {
			t.Fatalf("a %s called %q, %v", kind, label, err)
		}
	})
}
