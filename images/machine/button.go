package machine

import (
	"encoding/binary"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An input_event of the kernel (uapi/linux/input.h): time, type, code, value.
const (
	inputEventSize = int(unsafe.Sizeof(unix.Timeval{})) + 8
	evKey          = 1
	keyPower       = 116
)

// watchButtons follows every input device; the power button of ACPI is one.
func (m *machine) watchButtons() {
	known := map[string]bool{}
	for m.ending.Err() == nil {
		files, _ := filepath.Glob("/dev/input/event*")
		for _, f := range files {
			if !known[f] {
				known[f] = true
				go m.watchButton(f)
			}
		}
		m.sleep(retryEvery)
	}
}

// watchButton ends with its device, or with the machine.
func (m *machine) watchButton(path string) {
	f, err := os.Open(path)
	if err != nil {
		m.log.Error("input device is not followed", "err", err)
		return
	}
	defer f.Close()
	event := make([]byte, inputEventSize)
	for {
		if _, err := io.ReadFull(f, event); err != nil {
			return
		}
		if isPowerButton(event) {
			m.stop(powerOff, "power button")
			return
		}
	}
}

// isPowerButton reports whether an event is the button going down.
func isPowerButton(event []byte) bool {
	if len(event) != inputEventSize {
		return false
	}
	e := event[inputEventSize-8:]
	return binary.NativeEndian.Uint16(e) == evKey && binary.NativeEndian.Uint16(e[2:]) == keyPower && binary.NativeEndian.Uint32(e[4:]) == 1
}

// watchSignals takes the signals that reach process 1: SIGINT is Ctrl-Alt-Del, the others are a
// container's or a hypervisor's agent's way to ask for an end.
func (m *machine) watchSignals() {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGPWR)
	for s := range signals {
		if s == unix.SIGINT {
			m.stop(reboot, "Ctrl-Alt-Del")
		} else {
			m.stop(powerOff, s.String())
		}
	}
}
