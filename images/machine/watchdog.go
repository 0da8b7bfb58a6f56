package machine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// watchdogTimeout is how long a machine may hang. It is not what connections wait for: the standby
// has taken over long before.
const watchdogTimeout = 20 * time.Second

// errNoWatchdog says that the machine has none at all.
var errNoWatchdog = errors.New("no watchdog: a machine that hangs stays so (add an i6300esb)")

// keepWatchdog feeds the machine's watchdogs for as long as the machine runs: one that hangs, kernel
// or process 1, is reset. It goes on while the machine ends: an end that hangs is one, too.
func (m *machine) keepWatchdog() {
	dogs := openWatchdogs()
	if len(dogs) == 0 {
		m.log.Warn(errNoWatchdog.Error())
		return
	}
	var names []string
	for _, d := range dogs {
		names = append(names, d.name)
	}
	m.log.Info("watchdog is on", "device", strings.Join(names, ", "), "timeout", watchdogTimeout)
	tick := time.NewTicker(watchdogTimeout / 8)
	for {
		for _, d := range dogs {
			_, _ = d.file.Write([]byte{0}) // any write feeds it; one that fails lets it bite
		}
		<-tick.C
	}
}

type watchdog struct {
	file *os.File
	name string
}

// softdog is the kernel's own: it helps against a process 1 that hangs, not against a kernel that does.
const softdog = "Software Watchdog"

// openWatchdogs opens the hardware watchdogs, or the kernel's own if there is none.
func openWatchdogs() (dogs []watchdog) {
	paths, _ := filepath.Glob("/dev/watchdog[0-9]*")
	slices.Sort(paths)
	var soft string
	for _, path := range paths {
		identity, err := os.ReadFile(filepath.Join("/sys/class/watchdog", filepath.Base(path), "identity"))
		if name := string(bytes.TrimSpace(identity)); err == nil && name == softdog {
			soft = path
		} else if d, err := openWatchdog(path, name); err == nil {
			dogs = append(dogs, d)
		}
	}
	if len(dogs) == 0 && soft != "" {
		if d, err := openWatchdog(soft, softdog); err == nil {
			dogs = append(dogs, d)
		}
	}
	return dogs
}

// openWatchdog opens one, which starts it.
func openWatchdog(path, name string) (watchdog, error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return watchdog{}, err
	}
	// Some cannot be set; they have a time-out of their own, which is longer than our period.
	_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, int(watchdogTimeout/time.Second))
	if name == "" {
		name = path
	}
	return watchdog{f, fmt.Sprintf("%s (%s)", name, filepath.Base(path))}, nil
}
