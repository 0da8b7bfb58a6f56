//go:build amd64

package wrap

import (
	"bufio"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Programs that tests run are this test binary, too: a program in Go.
const envProgram = "LOCKSTEP_WRAP_PROGRAM"

var programs = map[string]func() int{"teller": teller, "threads": threads, "setuid": setuid, "clocks": clocks, "listing": listNames, "empty": empty}

// The thread that a program begins with is the one whose waiting counts, and has to be the one that serves.
func init() {
	if os.Getenv(envProgram) != "" {
		runtime.LockOSThread()
	}
}

// program is the command that runs one; it begins with env(1), since only the command is told.
func program(t *testing.T, name string, args ...string) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{"env", envProgram + "=" + name, self}, args...)
}

// teller is a server that tells everything which differs from one server to the next. It has a process for each
// connection, which asks for more at each line. The time it does not tell: threads of Go's runtime that wait may set it. Its argument is where it listens, and a file to look at.
func teller() int {
	if len(os.Args) == 2 { // the process that serves
		return tell(os.Args[1])
	}
	l, err := net.Listen("tcp4", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for {
		c, err := l.(*net.TCPListener).AcceptTCP()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		f, err := c.File()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		cmd := exec.Command("/proc/self/exe", os.Args[2])
		cmd.Env = append(os.Environ(), envProgram+"=teller")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = f, f, os.Stderr
		if err := cmd.Start(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		f.Close()
		c.Close()
		go func() { _ = cmd.Wait() }() // its status is nobody's affair
	}
}

func tell(file string) int {
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		b := make([]byte, 20)
		_, _ = rand.Read(b)
		fmt.Printf("%s: random %x, ", in.Text(), b)
		if dev, err := os.Open("/dev/urandom"); err == nil {
			_, _ = dev.Read(b)
			dev.Close()
		}
		var st unix.Stat_t
		var fs unix.Statfs_t
		_ = unix.Stat(file, &st)
		_ = unix.Statfs(file, &fs)
		entries, _ := os.ReadDir("/proc/self/task/..")
		fmt.Printf("device %x, process %d, file %+v, file system %+v, %d entries\n", b, os.Getpid(), st, fs, min(len(entries), 3))
	}
	return 0
}

// threads has many that sleep, wait for each other and make more.
func threads() int {
	var all sync.WaitGroup
	begun := time.Now()
	for range 16 {
		all.Go(func() {
			runtime.LockOSThread()
			for range 5 {
				time.Sleep(time.Millisecond)
				_, _ = rand.Read(make([]byte, 8))
				_ = exec.Command("true").Run()
			}
		})
	}
	all.Wait()
	if d := time.Since(begun); d < 5*time.Millisecond {
		fmt.Printf("slept for only %v\n", d)
		return 1
	}
	fmt.Println("done")
	return 0
}

// setuid says who it is.
func setuid() int {
	fmt.Printf("user %d for %d\n", syscall.Geteuid(), syscall.Getuid())
	return 0
}

func TestThreadsOfGo(t *testing.T) {
	if out, status := output(t, program(t, "threads")...); status != 0 || out != "done\n" {
		t.Errorf("status %d: %s", status, out)
	}
}

// A program that gets more rights than its caller keeps them, and it is said what that costs.
func TestSetuidIsCarried(t *testing.T) {
	needRoot(t)
	dir, err := os.MkdirTemp("", "wrap") // t.TempDir's parent is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	self, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		err = os.WriteFile(dir+"/program", self, 0o755)
	}
	if err == nil {
		err = os.Chmod(dir+"/program", 0o755|os.ModeSetuid)
	}
	if err != nil {
		t.Fatal(err)
	}
	out, status := output(t, "env", envProgram+"=setuid", "setpriv", "--reuid=65534", "--clear-groups", dir+"/program")
	if status != 0 || !strings.Contains(out, "user 0 for 65534") || !strings.Contains(out, "addresses at random") {
		t.Errorf("status %d: %s", status, out)
	}
}

// clocks compares what the vDSO shows with what the system calls do, which stop, and sees that time goes on where it waits.
func clocks() int {
	for range maxReads { // of which each is a call
		_ = time.Since(time.Time{})
	}
	before := time.Now()
	same := false
	for range 10 { // the time of one that works for a second changes meanwhile
		var real unix.Timespec
		var tv unix.Timeval
		shown := time.Now().UnixNano()
		if unix.ClockGettime(unix.CLOCK_REALTIME, &real) != nil || unix.Gettimeofday(&tv) != nil {
			return 1
		}
		now, _ := unix.Time(nil)
		if shown == real.Nano() && tv.Nano() == shown/1000*1000 && int64(now) == shown/1e9 {
			same = true
			break
		}
	}
	if !same {
		fmt.Println("the vDSO and the system calls differ")
		return 1
	}
	if standing := time.Now(); standing.Sub(before) != 0 && standing.Sub(before) < time.Millisecond {
		fmt.Printf("time went on by %v, without an event\n", standing.Sub(before))
		return 1
	}
	for before.Add(20 * time.Millisecond).After(time.Now()) {
		time.Sleep(time.Millisecond)
	}
	fmt.Println("right")
	return 0
}

// listNames reads a directory by small buffers, and from its middle again.
func listNames() int {
	fd, err := unix.Open(os.Args[1], unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	var names []string
	var offset int64
	b := make([]byte, 100)
	for range 2 {
		for {
			n, err := unix.Getdents(fd, b)
			if err != nil {
				fmt.Println(err)
				return 1
			}
			if n == 0 {
				break
			}
			_, _, names = unix.ParseDirent(b[:n], -1, names)
			if len(names) < 8 {
				offset = int64(binary.LittleEndian.Uint64(b[8:])) // behind the first entry of this piece
			}
		}
		if _, err := unix.Seek(fd, offset, unix.SEEK_SET); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	fmt.Println(offset, strings.Join(names, " "))
	return 0
}

// empty deletes what is in a directory while it reads that, and another one in between.
func empty() int {
	dir, err := os.Open(os.Args[1])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	other, err := os.Open(os.Args[2])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	b, deleted := make([]byte, 100), 0
	for {
		n, err := unix.Getdents(int(dir.Fd()), b)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		if n == 0 {
			break
		}
		_, _, names := unix.ParseDirent(b[:n], -1, nil)
		for _, name := range names {
			if err := os.Remove(os.Args[1] + "/" + name); err != nil {
				fmt.Println(err)
				return 1
			}
			deleted++
		}
		if _, err := unix.Getdents(int(other.Fd()), make([]byte, 100)); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	fmt.Println("deleted", deleted)
	return 0
}

func TestTwoDirectoriesAtOnce(t *testing.T) {
	needRoot(t)
	dir, other := t.TempDir(), t.TempDir()
	for _, d := range []string{dir, other} {
		for i := range 30 {
			if err := os.WriteFile(fmt.Sprintf("%s/%02d", d, i), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if out, status := output(t, program(t, "empty", dir, other)...); status != 0 || out != "deleted 30\n" {
		t.Errorf("status %d: %s", status, out)
	}
}

func TestClocks(t *testing.T) {
	if out, status := output(t, program(t, "clocks")...); status != 0 || out != "right\n" {
		t.Errorf("status %d: %s", status, out)
	}
}

// A directory has the order of its names, whoever asks how and from where.
func TestDirectoryInOrder(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	for i := range 10 {
		if err := os.WriteFile(fmt.Sprintf("%s/%c%d", dir, 'z'-i, i), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, status := output(t, program(t, "listing", dir)...)
	all := strings.Fields(". .. q9 r8 s7 t6 u5 v4 w3 x2 y1 z0")
	offset, names, _ := strings.Cut(strings.TrimSpace(out), " ")
	from, err := strconv.Atoi(offset)
	if status != 0 || err != nil || from < 3 || from > 8 || names != strings.Join(append(all[2:], all[from:]...), " ") {
		t.Errorf("status %d: %s", status, out)
	}
}

// Programs that no library loads: their clocks and random numbers are ours as well.
func TestStaticProgram(t *testing.T) {
	if out, status := output(t, "ldconfig", "-p"); status != 0 || !strings.Contains(out, "libc.so.6") {
		t.Errorf("status %d: %s", status, out)
	}
}
