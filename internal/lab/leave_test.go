package lab_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"lockstep/internal/lab"
	"lockstep/internal/lab/labtest"
)

// orphanRole builds a pair with processes in it, says so, and waits to be killed. It is itself
// run as an ordinary process: what matters is what it leaves behind.
func orphanRole(ctx context.Context, r *lab.RoleIO) error {
	p, err := lab.Pair(ctx, lab.PairOptions{Sync: lab.NetOptions{Kind: lab.Switch}})
	if err != nil {
		return err
	}
	var pids []int
	for _, h := range []*lab.Host{p.A, p.B, p.Client} {
		e, err := h.Go("echo", nil)
		if err != nil {
			return err
		}
		pids = append(pids, e.PID())
	}
	sleeper, err := p.A.Start(lab.Command{Path: "sleep", Args: []string{"1000"}})
	if err != nil {
		return err
	}
	if err := sleeper.Stop(); err != nil { // a frozen process must go too
		return err
	}
	if err := r.Emit(map[string]any{"id": p.ID(), "pids": append(pids, sleeper.PID())}); err != nil {
		return err
	}
	<-ctx.Done()
	return p.Close()
}

// processesOf lists the processes that carry a lab's mark.
func processesOf(t *testing.T, id string) (pids []string) {
	t.Helper()
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range environs {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // gone meanwhile
		}
		for _, kv := range strings.Split(string(b), "\x00") {
			if kv == lab.EnvID+"="+id {
				pids = append(pids, filepath.Base(filepath.Dir(f)))
			}
		}
	}
	return pids
}

func interfaceNames(t *testing.T) (names []string) {
	t.Helper()
	ifs, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range ifs {
		names = append(names, i.Name)
	}
	slices.Sort(names)
	return names
}

func TestNothingLeftBehind(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			before := interfaceNames(t)
			l := labtest.New(t, lab.Options{}) // only to start the role in some place
			h, err := l.Host("victim")
			if err != nil {
				t.Fatal(err)
			}
			r, err := h.Go("orphan", nil)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			var hello struct {
				ID   string
				PIDs []int
			}
			if err := r.Next(ctx, &hello); err != nil {
				t.Fatal(err)
			}
			if got := len(processesOf(t, hello.ID)); got != 4 {
				t.Errorf("%d processes of the lab run, want 4", got)
			}
			if during := interfaceNames(t); !slices.Equal(before, during) {
				t.Errorf("interfaces in the root namespace changed from %v to %v", before, during)
			}
			if err := r.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if err := r.Wait(ctx); sig != syscall.SIGKILL && err != nil {
				t.Errorf("ended with %v: %s", err, r.Output())
			}
			labtest.Eventually(t, 30*time.Second, "all processes of the lab are gone", func() bool {
				return len(processesOf(t, hello.ID)) == 0
			})
		})
	}
}

// TestCloseFreesNamespaces watches the namespaces themselves: their number of interfaces in use
// can be seen only from inside, but a namespace that is gone gives its inode back.
func TestCloseFreesNamespaces(t *testing.T) {
	labtest.RequireRoot(t)
	l, err := lab.New(context.Background(), lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	h, err := l.Host("gone")
	if err != nil {
		t.Fatal(err)
	}
	inode, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", h.NamespaceFD()))
	if err != nil {
		t.Fatal(err)
	}
	if len(namespaceUsers(t, inode)) == 0 {
		t.Fatal("the holder thread is not found: the test sees nothing")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	labtest.Eventually(t, 30*time.Second, "no thread and no descriptor refers to the namespace", func() bool {
		return len(namespaceUsers(t, inode)) == 0
	})
}

// namespaceUsers lists threads and descriptors of this process that refer to a namespace.
func namespaceUsers(t *testing.T, inode string) (users []string) {
	t.Helper()
	for _, glob := range []string{"/proc/self/task/*/ns/net", "/proc/self/fd/*"} {
		links, err := filepath.Glob(glob)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range links {
			if to, err := os.Readlink(f); err == nil && to == inode {
				users = append(users, f)
			}
		}
	}
	return users
}

// TestOrdinaryUser builds a lab without being root, where the machine allows it.
func TestOrdinaryUser(t *testing.T) {
	labtest.RequireRoot(t) // to become someone else
	dir, err := os.MkdirTemp("", "lab-user-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "lab.test")
	if err := os.WriteFile(copied, self, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(copied, "-test.run=^TestEnteredByOrdinaryUser$", "-test.v")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LAB_TEST_ENTER=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "hint: ") && strings.Contains(string(out), "create a user namespace") {
		t.Skipf("unprivileged user namespaces are not allowed here:\n%s", out)
	}
	if err != nil || !strings.Contains(string(out), "an ordinary user's lab works") {
		t.Errorf("%v:\n%s", err, out)
	}
}

// TestEnteredByOrdinaryUser is run by TestOrdinaryUser.
func TestEnteredByOrdinaryUser(t *testing.T) {
	if os.Getenv("LAB_TEST_ENTER") == "" {
		t.Skip("started by TestOrdinaryUser only")
	}
	entered, status, err := lab.Enter()
	if err != nil {
		t.Fatal(err)
	}
	if !entered {
		if status != 0 {
			t.Fatalf("inner process: exit status %d", status)
		}
		return
	}
	for _, kind := range []lab.Kind{lab.Kernel, lab.Switch} {
		_, _, x, y := bridged(t, lab.NetOptions{Kind: kind})
		if err := exchange(t, x, y, "10.0.0.2:5000", 1<<20); err != nil {
			t.Fatal(err)
		}
		if err := x.Sysctl("net.ipv4.tcp_sack", "0"); err != nil {
			t.Fatal(err)
		}
	}
	t.Log("an ordinary user's lab works")
}
