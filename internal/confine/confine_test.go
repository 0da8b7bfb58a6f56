package confine

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Every thread has the two capabilities left that were named, and nothing can be got
// back; with them the program can still do its work.
func TestKeep(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("this test needs root, and CI is set")
		}
		t.Skip("needs root")
	}
	prog := filepath.Join(t.TempDir(), "confined")
	build := exec.Command("go", "build", "-o", prog, "./testdata/confined")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as the program is built
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := exec.Command(prog).CombinedOutput()
	out := string(b)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const two = "0000000000003000" // CAP_NET_ADMIN 12, CAP_NET_RAW 13
	want := map[string]string{"CapInh": "0000000000000000", "CapAmb": "0000000000000000", "CapPrm": two, "CapEff": two, "CapBnd": two, "NoNewPrivs": "1"}
	lines := 0
	for line := range strings.Lines(out) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ":\t")
		if w := want[name]; ok && w != "" {
			lines++
			if value != w {
				t.Errorf("%s is %s, want %s", name, value, w)
			}
		}
	}
	if lines < 5*len(want) || strings.Contains(out, "mount") || !strings.Contains(out, "packet socket: true") {
		t.Errorf("%s", out)
	}
}
