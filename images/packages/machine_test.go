package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lockstep/internal/lab"
)

// patience of whoever waits for a machine; a busy one needs some of it.
const patience = 3 * time.Minute

// machine is a Debian of its own, with systemd as its first process, in the network namespace of a
// lab's host. Its files are a copy on write of the root that all machines share.
type machine struct {
	t    *testing.T
	name string
	init int // process 1 inside, as it is seen from here
}

// boot starts a machine and returns when it has booted.
func boot(t *testing.T, host *lab.Host, root string) *machine {
	t.Helper()
	dir := t.TempDir()
	script, err := filepath.Abs("testdata/boot.sh")
	if err != nil {
		t.Fatal(err)
	}
	// In the lab's hosts /sys is another one, without control groups.
	args := []string{fmt.Sprintf("--mount=/proc/%d/ns/mnt", os.Getpid()), "sh", script, root}
	for _, sub := range []string{"upper", "work", "merged"} {
		args = append(args, filepath.Join(dir, sub))
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	proc, err := host.Start(lab.Command{Name: "systemd", Path: "nsenter", Args: append(args, group(t, host.Name()))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s said:\n%s", host.Name(), proc.Tail(40))
		}
		_ = proc.Kill()
		<-proc.Done()
	})
	m := &machine{t: t, name: host.Name()}
	await(t, m.name+" to boot", func() bool {
		if !proc.Running() {
			t.Fatalf("%s has not booted:\n%s", m.name, proc.Output())
		}
		// unshare(1) waits for the one process that it has started.
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", proc.PID(), proc.PID()))
		if err != nil {
			return false
		}
		if n, _ := fmt.Sscan(string(children), &m.init); n != 1 {
			return false
		}
		state, _ := m.try("", "systemctl is-system-running")
		return strings.HasPrefix(state, "running") || strings.HasPrefix(state, "degraded")
	})
	return m
}

// group makes a control group for a machine; systemd needs one of the tree of version 2.
func group(t *testing.T, name string) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) < 3 || f[2] != "cgroup2" {
			continue
		}
		dir := filepath.Join(f[1], fmt.Sprintf("lockstep-packages-%d-%s", os.Getpid(), name))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { removeGroup(t, dir) })
		return dir
	}
	t.Fatal("no cgroup2 file system is mounted, without which systemd cannot run")
	return ""
}

// removeGroup removes a group and those in it, when the kernel has seen the last process off.
func removeGroup(t *testing.T, dir string) {
	await(t, dir+" to be empty", func() bool {
		var groups []string
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				groups = append(groups, path)
			}
			return nil
		})
		for i := len(groups) - 1; i >= 0; i-- {
			_ = os.Remove(groups[i])
		}
		_, err := os.Stat(dir)
		return errors.Is(err, fs.ErrNotExist)
	})
}

// try runs a shell's command line in the machine, and returns all that it printed.
func (m *machine) try(stdin, line string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", "--target", fmt.Sprint(m.init), "--all", "--",
		"env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "sh", "-c", line)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// run is try where nothing may go wrong.
func (m *machine) run(line string) string {
	m.t.Helper()
	return m.feed("", line)
}

func (m *machine) feed(stdin, line string) string {
	m.t.Helper()
	out, err := m.try(stdin, line)
	if err != nil {
		log, _ := m.try("", "journalctl --no-pager -n 30")
		m.t.Fatalf("on %s, %s: %v\n%s\njournal:\n%s", m.name, line, err, out, log)
	}
	return out
}

// await waits until something is so.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
