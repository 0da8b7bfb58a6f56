package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestImageConfig(t *testing.T) {
	out := filepath.Join(t.TempDir(), "volumes")
	status, text, errs := lockstep("image", "config", "-c", "../../pair.example.yaml", "--out", out, "--user-data")
	if status != 0 {
		t.Fatalf("exit %d: %s", status, errs)
	}
	expect(t, text, "Pair edge", "appliance a", "attach "+out+"/a.iso", "attach "+out+"/b.iso", "witness   w", out+"/witness/*")
	for _, name := range []string{"a.iso", "b.iso", "w.iso", "a.user-data", "keys/a/node.key", "witness/witness.yaml"} {
		info, err := os.Stat(filepath.Join(out, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	path := filepath.Join(t.TempDir(), "pair.yaml")
	example, err := os.ReadFile("../../pair.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(example), "services:", "servces:", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, _, errs := lockstep("image", "config", "-c", path, "--out", out); status != exitUsage || !strings.Contains(errs, "servces: unknown key") {
		t.Errorf("a wrong description: exit %d, %s", status, errs)
	}
	if status, _, errs := lockstep("image", "config", "-c", path+"-none", "--out", out); status != exitUsage || !strings.Contains(errs, "pair description") {
		t.Errorf("no description: exit %d, %s", status, errs)
	}
	if status, _, _ := lockstep("image", "config", "-c", "../../pair.example.yaml", "--out", "/dev/null/x"); status != exitFailed {
		t.Errorf("an impossible directory: exit %d", status)
	}
}
