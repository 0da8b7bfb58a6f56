package disk

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/partition/gpt"

	"lockstep/images/volume"
)

// tool finds a program, or says that the test cannot be done without it; in CI it fails.
func tool(t *testing.T, name string) string {
	t.Helper()
	for _, p := range []string{name, "/sbin/" + name} {
		if path, err := exec.LookPath(p); err == nil {
			return path
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is not installed (Debian's package %s has it)", name, packages[name])
	}
	t.Skipf("%s is not installed", name)
	return ""
}

func write(t *testing.T, kernel []byte) string {
	t.Helper()
	tool(t, "mformat")
	tool(t, "mke2fs")
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := Write(context.Background(), path, kernel, time.Unix(1_700_000_000, 0)); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDisk(t *testing.T) {
	kernel := bytes.Repeat([]byte("kernel"), 100_000)
	path := write(t, kernel)
	f, err := file.OpenFromPath(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := gpt.Read(f, sector, sector)
	if err != nil || len(table.Partitions) < 2 || table.RecoveredFromBackup {
		t.Fatalf("partitions are %+v, %v", table, err)
	}
	esp, state := table.Partitions[0], table.Partitions[1]
	if esp.Type != gpt.EFISystemPartition || esp.Start != 2048 || state.Start != esp.End+1 || state.Type != gpt.LinuxFilesystem {
		t.Errorf("partitions are %+v and %+v", esp, state)
	}
	for _, want := range []struct {
		start uint64
		kind  volume.Kind
		label string
	}{{esp.Start, volume.KindFAT, volume.BootLabel}, {state.Start, volume.KindExt4, volume.StateLabel}} {
		kind, label, err := volume.Identify(offset{f, int64(want.start) * sector})
		if kind != want.kind || label != want.label || err != nil {
			t.Errorf("at sector %d is a %s called %q, %v", want.start, kind, label, err)
		}
	}
	// The kernel is where firmware looks for it.
	out, err := exec.Command(tool(t, "mcopy"), "-n", "-i", fmt.Sprintf("%s@@%d", path, esp.Start*sector), "::"+bootPath, "-").Output()
	if err != nil || !bytes.Equal(out, kernel) {
		t.Errorf("the kernel reads as %d bytes, %v", len(out), err)
	}
	// The file systems are whole, as far as this machine can tell.
	for _, c := range []struct {
		program string
		part    *gpt.Partition
		args    []string
	}{{"e2fsck", state, []string{"-fn"}}, {"fsck.vfat", esp, []string{"-n"}}} {
		program, err := exec.LookPath("/sbin/" + c.program)
		if err != nil {
			continue
		}
		part := filepath.Join(t.TempDir(), "part")
		if out, err := exec.Command("dd", "if="+path, "of="+part, "bs=512", fmt.Sprintf("skip=%d", c.part.Start), fmt.Sprintf("count=%d", c.part.End-c.part.Start+1), "conv=sparse", "status=none").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if out, err := exec.Command(program, append(c.args, part)...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", c.program, err, out)
		}
	}
}

type offset struct {
	r interface {
		ReadAt([]byte, int64) (int, error)
	}
	at int64
}

func (o offset) ReadAt(b []byte, at int64) (int, error) { return o.r.ReadAt(b, o.at+at) }

func TestSamePartsSameBytes(t *testing.T) {
	a, err := os.ReadFile(write(t, []byte("kernel")))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(write(t, []byte("kernel")))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		for i := range a {
			if a[i] != b[i] {
				t.Fatalf("the disks differ, first at %#x", i)
			}
		}
	}
}
