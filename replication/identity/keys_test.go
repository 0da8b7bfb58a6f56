package identity

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWriteIdentities(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	dirs, err := Write(dir, "edge", []string{"a", "b", "witness"}, false)
	if err != nil || len(dirs) != 3 {
		t.Fatal(dirs, err)
	}
	var files []string
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		} else if rel, err := filepath.Rel(dir, path); err == nil {
			files = append(files, rel)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "a/node.crt a/node.key a/pair a/peers/b.crt a/peers/witness.crt " +
		"b/node.crt b/node.key b/pair b/peers/a.crt b/peers/witness.crt " +
		"witness/node.crt witness/node.key witness/pair witness/peers/a.crt witness/peers/b.crt"
	if got := strings.Join(files, " "); got != want {
		t.Errorf("files are\n%s\nwant\n%s", got, want)
	}
	id, err := Load(dirs[1])
	if err != nil {
		t.Fatal(err)
	}
	if id.Node != "b" || id.Pair != "edge" || !id.Has("a") || !id.Has("witness") || id.Has("b") {
		t.Errorf("identity is %+v", id)
	}
	if got := strings.Join(id.Peers(), " "); got != "a witness" {
		t.Errorf("peers are %s", got)
	}
}

func TestWitness(t *testing.T) {
	load := func(node string, nodes ...string) *Identity {
		t.Helper()
		dirs, err := Write(t.TempDir(), "edge", nodes, false)
		if err != nil {
			t.Fatal(err)
		}
		id, err := Load(filepath.Join(filepath.Dir(dirs[0]), node))
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	pair := [2]string{"a", "b"}
	for _, node := range []string{"a", "b", "w"} {
		if name, err := load(node, "a", "b", "w").Witness(pair); err != nil || name != "w" {
			t.Errorf("by %s: %q, %v", node, name, err)
		}
	}
	if _, err := load("a", "a", "b").Witness(pair); err == nil || !strings.Contains(err.Error(), "lockstep keys --pair edge --members a,b --witness") {
		t.Errorf("no witness: %v", err)
	}
	if _, err := load("a", "a", "b", "v", "w").Witness(pair); err == nil || !strings.Contains(err.Error(), "v, w") {
		t.Errorf("two witnesses: %v", err)
	}
}

func TestKeysAreNotOverwritten(t *testing.T) {
	dir := t.TempDir()
	nodes := []string{"a", "b"}
	if _, err := Write(dir, "edge", nodes, false); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(filepath.Join(dir, "a", keyFile))
	_, err := Write(dir, "edge", nodes, false)
	after, _ := os.ReadFile(filepath.Join(dir, "a", keyFile))
	if err == nil || !strings.Contains(err.Error(), "--force") || string(before) != string(after) {
		t.Errorf("overwritten without force: %v", err)
	}
	if _, err := Write(dir, "edge", nodes, true); err != nil {
		t.Fatal(err)
	}
	after, _ = os.ReadFile(filepath.Join(dir, "a", keyFile))
	if string(before) == string(after) {
		t.Error("not replaced with force")
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 2 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestBadNames(t *testing.T) {
	for _, nodes := range [][]string{{"a"}, {"a", "a"}, {"a", "../b"}, {"a", ""}, {"a", "B"}, {"a", "-b"}} {
		if _, err := Write(t.TempDir(), "edge", nodes, false); err == nil {
			t.Errorf("%q was accepted", nodes)
		}
	}
	if _, err := Write(t.TempDir(), "ed ge", []string{"a", "b"}, false); err == nil {
		t.Error("a pair name with a space was accepted")
	}
}

func TestBrokenIdentities(t *testing.T) {
	for name, breakIt := range map[string]func(dir string) error{
		"missing":      func(dir string) error { return os.Remove(filepath.Join(dir, keyFile)) },
		"open to all":  func(dir string) error { return os.Chmod(filepath.Join(dir, keyFile), 0o644) },
		"no pair":      func(dir string) error { return os.Remove(filepath.Join(dir, pairFile)) },
		"not a key":    func(dir string) error { return os.WriteFile(filepath.Join(dir, keyFile), []byte("x"), 0o600) },
		"huge":         func(dir string) error { return os.Truncate(filepath.Join(dir, certFile), maxIdentityFile+1) },
		"peer garbage": func(dir string) error { return os.WriteFile(filepath.Join(dir, peersDir, "b.crt"), []byte("x"), 0o600) },
		"peer renamed": func(dir string) error {
			return os.Rename(filepath.Join(dir, peersDir, "b.crt"), filepath.Join(dir, peersDir, "z.crt"))
		},
		"no peers": func(dir string) error { return os.RemoveAll(filepath.Join(dir, peersDir)) },
		"another's key": func(dir string) error {
			other, err := os.ReadFile(filepath.Join(dir, "..", "b", keyFile))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, keyFile), other, 0o600)
		},
	} {
		dir := filepath.Join(t.TempDir(), "a")
		if _, err := Write(filepath.Dir(dir), "edge", []string{"a", "b", "c"}, false); err != nil {
			t.Fatal(err)
		}
		if err := breakIt(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir); err == nil {
			t.Errorf("%s: loaded", name)
		}
	}
}
