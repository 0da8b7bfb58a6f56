package debian

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const sum = "5195b288dec79e2981d6b84457f38b7ce7310a2d702930ec7d07209c7f78ce37"

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l := Lock{
		Kernel: Package{"linux-image-6.12.117+deb12-cloud-amd64", "6.12.117-1~deb12u1", sum, "linux-image-6.12-cloud-amd64"},
		Stub:   Package{Name: "systemd-boot-efi", Version: "252.39-1~deb12u2", SHA256: sum},
	}
	if err := l.Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := ReadLock(path)
	if err != nil || got != l {
		t.Errorf("read %+v, %v", got, err)
	}
	for name, change := range map[string]func(text string) string{
		"unknown key": func(s string) string { return s + "more: 1\n" },
		"hash":        func(s string) string { return strings.ReplaceAll(s, sum, sum[1:]) },
		"an option":   func(s string) string { return strings.ReplaceAll(s, "systemd-boot-efi", "--force") },
		"version":     func(s string) string { return strings.ReplaceAll(s, "252.39", "/etc/252") },
		"too large":   func(s string) string { return s + strings.Repeat("#", maxLock) },
	} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bad := filepath.Join(t.TempDir(), "lock")
		if err := os.WriteFile(bad, []byte(change(string(data))), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadLock(bad); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if _, err := ReadLock("../debian.lock"); err != nil {
		t.Error(err)
	}
}

func TestFetchUsesWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	content := []byte("a package")
	p := Package{Name: "x-y", Version: "1", SHA256: fmt.Sprintf("%x", sha256.Sum256(content))}
	path := filepath.Join(dir, p.SHA256+".deb")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Fetch(context.Background(), p, dir); err != nil || got != path {
		t.Errorf("fetched %q, %v", got, err)
	}
	// A damaged file is fetched anew, which here cannot work; and how to go on is said.
	if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Fetch(ctx, p, dir); err == nil || !strings.Contains(err.Error(), "make image-lock") {
		t.Errorf("a damaged file: %v", err)
	}
}

func TestParseFields(t *testing.T) {
	f := parseFields("Package: a\nDepends: b (= 1), c\nDescription: short\n long: er\nSHA256: x\n\nPackage: other\n")
	if f["Package"] != "a" || f["Depends"] != "b (= 1), c" || f["SHA256"] != "x" || f["long"] != "" {
		t.Errorf("fields are %v", f)
	}
}

func TestReadTar(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range []struct{ name, data string }{{"./boot/vmlinuz-1", "kernel"}, {"../etc/passwd", "no"}, {"./other", "no"}} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Size: int64(len(f.data)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.WriteHeader(&tar.Header{Name: "./boot/vmlinuz-2", Linkname: "x", Typeflag: tar.TypeSymlink}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := readTar(&b, func(n string) bool { return strings.HasPrefix(n, "boot/") })
	if err != nil || len(files) != 1 || string(files["boot/vmlinuz-1"]) != "kernel" {
		t.Errorf("files are %q, %v", files, err)
	}
}
