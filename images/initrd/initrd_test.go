package initrd

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

func sample() *Archive {
	a := New(time.Unix(1_700_000_000, 0))
	a.File("lockstep", 0o755, []byte("program"))
	a.Link("init", "lockstep")
	a.File("etc/deep/er/file", 0o644, []byte("x"))
	a.Dir("proc")
	a.Char("dev/console", 0o600, 5, 1)
	return a
}

func plain(t *testing.T, a *Archive) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := a.Write(&b); err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewReader(&b)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	out, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestArchiveLayout(t *testing.T) {
	cpio := plain(t, sample())
	var names []string
	for rest := cpio; len(rest) >= 110; {
		if string(rest[:6]) != "070701" {
			t.Fatalf("no magic at %d", len(cpio)-len(rest))
		}
		field := func(i int) int {
			n := 0
			for _, c := range rest[6+8*i : 14+8*i] {
				n = n*16 + strings.IndexByte("0123456789ABCDEF", c)
			}
			return n
		}
		size, nameLen := field(6), field(11)
		name := string(rest[110 : 110+nameLen-1])
		data := (110 + nameLen + 3) / 4 * 4
		switch name {
		case "lockstep":
			if field(1) != 0o100755 || field(5) != 1_700_000_000 || string(rest[data:data+size]) != "program" {
				t.Errorf("the program has mode %o, time %d", field(1), field(5))
			}
		case "init":
			if field(1) != 0o120777 || string(rest[data:data+size]) != "lockstep" {
				t.Errorf("init is no link to the program: mode %o", field(1))
			}
		case "dev/console":
			if field(1) != 0o020600 || field(9) != 5 || field(10) != 1 {
				t.Errorf("the console is mode %o, %d:%d", field(1), field(9), field(10))
			}
		}
		names = append(names, name)
		rest = rest[(data+size+3)/4*4:]
	}
	want := "dev dev/console etc etc/deep etc/deep/er etc/deep/er/file init lockstep proc TRAILER!!!"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("entries are\n%s\nwant\n%s", got, want)
	}
}

func TestSameEntriesSameBytes(t *testing.T) {
	var a, b bytes.Buffer
	if err := sample().Write(&a); err != nil {
		t.Fatal(err)
	}
	other := New(time.Unix(1_700_000_000, 0)) // in another order
	other.Char("dev/console", 0o600, 5, 1)
	other.File("etc/deep/er/file", 0o644, []byte("x"))
	other.Dir("proc")
	other.Link("init", "lockstep")
	other.File("lockstep", 0o755, []byte("program"))
	if err := other.Write(&b); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("the order of the calls shows in the archive")
	}
}

func TestArchiveRefuses(t *testing.T) {
	for what, do := range map[string]func(a *Archive){
		"absolute": func(a *Archive) { a.File("/x", 0, nil) },
		"above":    func(a *Archive) { a.File("../x", 0, nil) },
		"empty":    func(a *Archive) { a.File("", 0, nil) },
		"twice":    func(a *Archive) { a.File("x", 0, nil); a.File("x", 0, nil) },
	} {
		a := New(time.Time{})
		do(a)
		if err := a.Write(io.Discard); err == nil {
			t.Errorf("%s: was written", what)
		}
	}
}

// The kernel's format is also cpio(1)'s, where that is installed.
func TestReadableByCPIO(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("cpio is not installed")
		}
		t.Skip("cpio is not installed")
	}
	dir := t.TempDir()
	cmd := exec.Command("cpio", "-idm", "--no-absolute-filenames", "--nonmatching", "dev/console")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(plain(t, sample()))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "init")); err != nil || string(data) != "program" {
		t.Errorf("init reads %q, %v", data, err)
	}
}
