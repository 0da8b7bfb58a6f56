//go:build amd64

package wrap

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"lockstep/wrap/jail"
	"lockstep/wrap/trace"
)

// maxDraw is how many random bytes a call gets at once; it may ask again, as the kernel's interface lets it.
const maxDraw = 1 << 20

// draw answers a call with random bytes.
func (s *supervisor) draw(t *trace.Task, at, size uint64) (trace.Next, int64) {
	b := make([]byte, min(size, maxDraw))
	of(t.Proc).random.Draw(b)
	if t.Write(at, b) != nil {
		return trace.Answer, -int64(unix.EFAULT)
	}
	return trace.Answer, int64(len(b))
}

func (s *supervisor) getrandom(t *trace.Task) (trace.Next, int64) {
	if t.Arg(2)&^(unix.GRND_NONBLOCK|unix.GRND_RANDOM|unix.GRND_INSECURE) != 0 {
		return trace.Pass, 0 // the kernel says what is wrong with it
	}
	return s.draw(t, t.Arg(0), t.Arg(1))
}

// Character devices (admin-guide/devices.txt).
const (
	memDevices = 1
	random     = 8
	urandom    = 9
)

// read looks at what is read from: random devices are answered, what may wait is an event, all else passes.
func (s *supervisor) read(t *trace.Task) (next trace.Next, result int64) {
	device, waits := false, false
	borrow(t.Proc.PID, int(int32(t.Arg(0))), func(fd int) {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil {
			return
		}
		switch minor := unix.Minor(st.Rdev); st.Mode & unix.S_IFMT {
		case unix.S_IFREG, unix.S_IFDIR:
			return
		case unix.S_IFCHR:
			device = unix.Major(st.Rdev) == memDevices && (minor == random || minor == urandom)
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		waits = err == nil && flags&unix.O_NONBLOCK == 0
	})
	switch {
	case device && t.Call() == unix.SYS_READ:
		return s.draw(t, t.Arg(1), t.Arg(2))
	case waits:
		return trace.Watch, 0
	}
	return trace.Pass, 0
}

// clone3 makes a thread or a process: its flags lie in memory.
func (s *supervisor) clone3(t *trace.Task) (trace.Next, int64) {
	var flags [8]byte
	if t.Read(t.Arg(0), flags[:]) != nil || binary.LittleEndian.Uint64(flags[:])&unix.CLONE_THREAD != 0 {
		return trace.Pass, 0
	}
	return trace.Fork, 0
}

// maxPID is the largest process number of this kernel.
func maxPID() (uint64, error) {
	b, err := os.ReadFile("/proc/sys/kernel/pid_max")
	if err != nil {
		return 0, fmt.Errorf("reading the largest process number: %w", err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || n < 4*jail.FirstPID {
		return 0, fmt.Errorf("the largest process number is %q", strings.TrimSpace(string(b)))
	}
	return min(n, commonPIDs), nil
}

// commonPIDs is the range that process numbers are drawn from: the kernel's own default, so that servers agree
// whatever they have set.
const commonPIDs = 32768

// Forking implements trace.Handler: the number of a process is drawn, too. Should it be in use, the kernel takes
// the next one that is free.
func (s *supervisor) Forking(t *trace.Task) {
	p, first := of(t.Proc), uint64(3*jail.FirstPID)
	pid := first + p.random.Number(p.children)%(s.maxPID-first)
	if err := s.jail.NextPID(int(pid)); err != nil {
		s.say("process numbers are the kernel's: %v", err)
	}
}

// randomAddresses says whether a process has addresses at random after all: the kernel takes the wish back where a
// program gets more rights than its caller has.
func randomAddresses(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/personality", pid))
	if err != nil {
		return false // it has ended
	}
	persona, err := strconv.ParseUint(strings.TrimSpace(string(b)), 16, 32)
	const noRandomAddresses = 0x0040000 // ADDR_NO_RANDOMIZE
	return err == nil && persona&noRandomAddresses == 0
}
