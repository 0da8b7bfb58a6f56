package bench

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/internal/lab"
)

// cpuTime of a running process, all its threads, user and system, in nanoseconds resolution.
// (/proc has ticks of 10 ms, rusage only processes that have ended.)
func cpuTime(pid int) (time.Duration, error) {
	// MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of the kernel's posix-timers.h.
	clock := int32(^pid<<3 | 2)
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// cpuTimes adds the processes up.
func cpuTimes(procs []*lab.Proc) (sum time.Duration, err error) {
	for _, p := range procs {
		d, err := cpuTime(p.PID())
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}

// userHZ is the unit of /proc/stat on every Linux.
const userHZ = 100

// machine is the time of all CPUs since boot.
type machine struct {
	busy   time.Duration // not idle, interrupts included
	stolen time.Duration // a hypervisor gave the CPU to somebody else
}

// readMachine tells, among others, what the kernel does for a gateway that has no process.
func readMachine() (machine, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return machine{}, fmt.Errorf("CPU time of the machine: %w", err)
	}
	return parseStat(b)
}

func parseStat(stat []byte) (machine, error) {
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	fields := strings.Fields(string(line))
	if len(fields) < 9 || fields[0] != "cpu" {
		return machine{}, fmt.Errorf("CPU time of the machine: unexpected %q in /proc/stat", line)
	}
	var ticks [8]time.Duration // user nice system idle iowait irq softirq steal; guests are in user and nice
	for i := range ticks {
		n, err := strconv.ParseInt(fields[i+1], 10, 64)
		if err != nil {
			return machine{}, fmt.Errorf("CPU time of the machine: %w", err)
		}
		ticks[i] = time.Duration(n) * time.Second / userHZ
	}
	return machine{ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6], ticks[7]}, nil
}

// snapshot is what is needed to tell, later, how much CPU others used meanwhile.
type snapshot struct {
	at   time.Time
	busy time.Duration // of the machine
	own  time.Duration // of this process and its children, living and dead
}

func takeSnapshot() (s snapshot, err error) {
	s.at = time.Now()
	m, err := readMachine()
	if err != nil {
		return s, err
	}
	s.busy = m.busy
	var dead unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &dead); err != nil {
		return s, fmt.Errorf("CPU time of children: %w", err)
	}
	s.own = time.Duration(dead.Utime.Nano() + dead.Stime.Nano())
	self, err := cpuTime(os.Getpid())
	if err != nil {
		return s, err
	}
	s.own += self
	for _, pid := range children() {
		if d, err := cpuTime(pid); err == nil { // else it has just died
			s.own += d
		}
	}
	return s, nil
}

// othersSince is the share of all CPUs, 0 to 1, that went to others since s was taken. The two
// clocks behind it differ by some percent.
func (s snapshot) othersSince() (float64, error) {
	now, err := takeSnapshot()
	if err != nil {
		return 0, err
	}
	others := (now.busy - s.busy) - (now.own - s.own)
	return max(0, float64(others)/float64(now.at.Sub(s.at))/float64(runtime.NumCPU())), nil
}

// children of this process that live.
func children() (pids []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // it has just died
		}
		if parent, ok := parseParent(stat); ok && parent == os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// parseParent finds the parent in /proc/PID/stat: "PID (name) state parent ...", where the name may
// contain anything.
func parseParent(stat []byte) (int, bool) {
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 {
		return 0, false
	}
	f := strings.Fields(string(stat[i+1:]))
	if len(f) < 2 {
		return 0, false
	}
	parent, err := strconv.Atoi(f[1])
	return parent, err == nil
}

// residentMemory of a process in bytes.
func residentMemory(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	return parseRSS(b)
}

func parseRSS(status []byte) (int64, error) {
	n, err := parseKB(status, "VmRSS:")
	if err != nil {
		return 0, fmt.Errorf("resident memory (no VmRSS: the process has ended): %w", err)
	}
	return n, nil
}

// parseKB finds a line such as "VmRSS:  4 kB"; in bytes.
func parseKB(text []byte, name string) (int64, error) {
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(string(rest)), "kB")), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s %w", name, err)
			}
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("no %s", name)
}

// kernelMemory is what the kernel has for objects, sockets above all, in bytes; of the whole machine.
func kernelMemory() (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("memory of the kernel: %w", err)
	}
	return parseKB(b, "Slab:")
}
