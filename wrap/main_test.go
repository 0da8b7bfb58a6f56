//go:build amd64

package wrap

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lockstep/wrap/agree"
	"lockstep/wrap/determinant"
)

// A wrapped program is started by a supervisor, which is this test binary again.
const envWrapped = "LOCKSTEP_WRAP_TEST"

// wrapped is what such a supervisor is told.
type wrapped struct {
	Command           []string
	Authority, Server string
	Secret            []byte
}

func TestMain(m *testing.M) {
	Main()
	if text, ok := os.LookupEnv(envWrapped); ok {
		os.Unsetenv(envWrapped)
		os.Exit(supervise(text))
	}
	if name, ok := os.LookupEnv(envProgram); ok {
		os.Exit(programs[name]())
	}
	if os.Geteuid() == 0 && os.Getenv(envIsolated) == "" {
		os.Exit(isolated())
	}
	if os.Getenv(envIsolated) != "" {
		if err := addresses(); err != nil {
			fmt.Fprintln(os.Stderr, "the tests' addresses:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// envIsolated is set in a network namespace of the tests' own, which has the servers' addresses.
const envIsolated = "LOCKSTEP_WRAP_ISOLATED"

// isolated runs the tests in that namespace.
func isolated() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), envIsolated+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "a network namespace for the tests:", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

// addresses gives the loopback interface those of the servers and of the tee.
func addresses() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, host := range []string{"127.0.0.1/8", "127.0.3.1/8", "127.0.3.11/8", "127.0.3.12/8"} {
		a, err := netlink.ParseAddr(host)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(lo, a); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return netlink.LinkSetUp(lo)
}

func supervise(text string) int {
	var w wrapped
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	o := Options{Command: w.Command, Secret: w.Secret, Messages: os.Stderr, Authority: Alone()}
	if w.Secret == nil {
		o.Secret = make([]byte, determinant.SecretSize)
	}
	if w.Authority != "" {
		client, err := agree.Dial(agree.Place{Socket: w.Authority}, w.Server, 5*time.Second)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 99
		}
		defer client.Close()
		o.Authority = client
	}
	status, err := Run(o)
	var cannot *CommandError
	switch {
	case errors.As(err, &cannot):
		fmt.Fprintln(os.Stderr, err)
		return cannot.Status
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 99
	case status.Signaled():
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// needRoot skips a test without root, and fails it where everything has to run.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
}

// command makes a supervisor.
func command(t *testing.T, w wrapped) *exec.Cmd {
	t.Helper()
	needRoot(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), envWrapped+"="+string(text))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// said is what a process writes, readable meanwhile.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// start starts a supervisor, which ends with the test.
func start(t *testing.T, w wrapped) (*exec.Cmd, *said) {
	t.Helper()
	cmd, out := command(t, w), &said{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended, otherwise
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%v said:\n%s", w.Command, out)
		}
	})
	return cmd, out
}

// output runs a wrapped command and returns what it wrote and its exit status.
func output(t *testing.T, args ...string) (string, int) {
	t.Helper()
	out, err := command(t, wrapped{Command: args}).CombinedOutput()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return string(out), exit.ExitCode()
	case err != nil:
		t.Fatal(err)
	}
	return string(out), 0
}

func TestStatusPassesThrough(t *testing.T) {
	for _, c := range []struct {
		script string
		status int
	}{
		{"exit 0", 0}, {"exit 3", 3}, {"kill -TERM $$", 143}, {"kill -KILL $$", 137},
		{"(exit 4) & wait $!; exit $?", 4},                             // a child's status
		{"exec sh -c 'exit 5'", 5},                                     // exec
		{"trap 'exit 6' USR1; kill -USR1 $$; sleep 9", 6},              // a signal's handler
		{"(sleep .1; kill -CONT $$) & kill -STOP $$; wait; exit 7", 7}, // a group stop
		{"sleep .2 & exit 0", 0},                                       // a daemon
	} {
		if out, status := output(t, "sh", "-c", c.script); status != c.status {
			t.Errorf("%s: %d, want %d\n%s", c.script, status, c.status, out)
		}
	}
}

func TestCannotBeRun(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	old := filepath.Join(t.TempDir(), "old")
	elf32 := append([]byte("\x7fELF\x01\x01\x01"), make([]byte, 9)...)
	elf32 = append(elf32, 2, 0, 3, 0, 1, 0, 0, 0)
	for name, text := range map[string][]byte{script: []byte("#!/nowhere/at/all\n"), old: elf32} {
		if err := os.WriteFile(name, text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		command, says string
		status        int
	}{
		{"/nowhere/at/all", "no such file", 127},
		{"/etc/passwd", "permission denied", 126},
		{script, "no such file", 126},
		{old, "is a program of 32 bits", 126},
	} {
		if out, status := output(t, c.command); status != c.status || !strings.Contains(out, c.says) {
			t.Errorf("%s: status %d, want %d; said %q, not %q", c.command, status, c.status, out, c.says)
		}
	}
}

// until waits for something that needs no more than a moment, on a machine that may be very busy.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

func TestSignalsArePassedOn(t *testing.T) {
	cmd, out := start(t, wrapped{Command: []string{"sh", "-c", "trap 'exit 9' HUP; echo ready; while :; do sleep .01; done"}})
	until(t, "the program's start", func() bool { return strings.Contains(out.String(), "ready") })
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 9 {
		t.Errorf("ended with %v, want status 9", err)
	}
}

// When the first process has ended, signals are for nobody else who has its number, and one that ends ends all.
func TestSignalsAfterTheFirstProcess(t *testing.T) {
	cmd, out := start(t, wrapped{Command: []string{"sh", "-c", "setsid sleep 1000 & echo ready"}})
	var all []int
	until(t, "the end of the first process", func() bool {
		all = descendants(cmd.Process.Pid)
		return strings.Contains(out.String(), "ready") && len(all) == 2 // the init and sleep
	})
	for _, s := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGTERM} {
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	limit := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() }) // it has ended, otherwise
	defer limit.Stop()
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
	for _, pid := range all {
		if alive(pid) {
			t.Errorf("process %d goes on", pid)
		}
	}
}

// Descriptors that the supervisor was given are the program's, by their numbers, and so are systemd's sockets.
func TestDescriptorsArePassedOn(t *testing.T) {
	script := `test "$LISTEN_PID" = $$ && test -z "$LISTEN_PIDFDID" && cat <&3 && cat <&7 && test ! -e /proc/self/fd/4 && test ! -e /proc/self/fd/8 && test ! -e /proc/1/fd/7`
	cmd := command(t, wrapped{Command: []string{"sh", "-c", script}})
	files := map[int]*os.File{}
	for _, fd := range []int{3, 7} {
		f, err := os.Create(fmt.Sprintf("%s/%d", t.TempDir(), fd))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fmt.Fprintf(f, "this is %d\n", fd)
		if _, err := f.Seek(0, 0); err != nil {
			t.Fatal(err)
		}
		files[fd] = f
	}
	// LISTEN_PID is the supervisor's number, which a shell knows before it becomes that.
	cmd.ExtraFiles = []*os.File{files[3], nil, nil, nil, files[7]}
	cmd.Args = []string{"sh", "-c", `export LISTEN_PID=$$ LISTEN_PIDFDID=1; exec "$0"`, cmd.Path}
	cmd.Path = "/bin/sh"
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "this is 3\nthis is 7\n" {
		t.Errorf("%v: %s", err, out)
	}
}

// What the program closes of its descriptors is closed.
func TestDescriptorsAreThePrograms(t *testing.T) {
	cmd := command(t, wrapped{Command: []string{"sh", "-c", "exec 3>&-; read go"}})
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.ExtraFiles = []*os.File{w}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := r.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the program has closed its descriptor, and reading gives %v", err)
	}
	in.Close()
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("ended with %v", err)
	}
}

// descendants of a process, as /proc knows them.
func descendants(pid int) (all []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range tasks {
		text, _ := os.ReadFile(file) // none: it has ended
		for _, field := range strings.Fields(string(text)) {
			var child int
			if _, err := fmt.Sscan(field, &child); err == nil {
				all = append(append(all, child), descendants(child)...)
			}
		}
	}
	return all
}

// alive says whether a process runs; a zombie does not.
func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// The supervisor's death ends every process of its program, also one that has left its group and session.
func TestDiesWithItsSupervisor(t *testing.T) {
	cmd, out := start(t, wrapped{Command: []string{"sh", "-c", "sleep 1000 & setsid sleep 1001 & (sleep 1002 & sleep 1003) & echo ready; wait"}})
	var all []int
	until(t, "the program's start", func() bool {
		all = descendants(cmd.Process.Pid)
		return strings.Contains(out.String(), "ready") && len(all) >= 6
	})
	if err := unix.Kill(cmd.Process.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, pid := range all {
		until(t, fmt.Sprintf("the end of process %d", pid), func() bool { return !alive(pid) })
	}
}
