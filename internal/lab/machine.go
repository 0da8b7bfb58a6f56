package lab

import (
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine is what figures depend on that are measured on it. What cannot be read is "unknown".
type Machine struct {
	CPU        string // its model
	CPUs       int    // that this process may use
	Kernel     string
	Congestion string // the kernel's default congestion control
	Load       string // averages over 1, 5 and 15 minutes, before anything is measured
}

// LookAtMachine reads it.
func LookAtMachine() Machine {
	m := Machine{CPU: cpuModel(), CPUs: runtime.NumCPU(), Kernel: "unknown", Load: "unknown", Congestion: readWord("/proc/sys/net/ipv4/tcp_congestion_control")}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	if f := strings.Fields(readWord("/proc/loadavg")); len(f) >= 3 {
		m.Load = strings.Join(f[:3], " ")
	}
	return m
}

// readWord reads a small file; nothing depends on what it says.
func readWord(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

func cpuModel() string {
	for line := range strings.Lines(readWord("/proc/cpuinfo")) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
