package machine

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxLine = 8 << 10 // bytes of one line; the rest is another line
	// maxPending is how many lines may wait for the console: a serial line carries about a hundred a
	// second, and nobody waits for it.
	maxPending = 2000
	// flushLimit is how long the machine's end waits for the console.
	flushLimit = 3 * time.Second
)

// journal writes the log to the serial console, or to whatever console there is.
type journal struct {
	out     *os.File // nil: there is no console
	lines   chan []byte
	dropped atomic.Uint64
}

// openJournal opens the console that is no screen, if the machine has one.
func openJournal() *journal {
	j := &journal{lines: make(chan []byte, maxPending)}
	name := "console"
	active, _ := os.ReadFile("/sys/class/tty/console/active") // "tty0 ttyS0"
	for c := range strings.FieldsSeq(string(active)) {
		if !strings.HasPrefix(c, "tty") || strings.HasPrefix(c, "ttyS") {
			name = c
		}
	}
	j.out, _ = os.OpenFile("/dev/"+name, os.O_WRONLY|unix.O_NOCTTY, 0)
	go j.run()
	return j
}

// run is the only writer; it ends with the machine.
func (j *journal) run() {
	for line := range j.lines {
		if j.out == nil {
			continue
		}
		if n := j.dropped.Swap(0); n > 0 {
			fmt.Fprintf(j.out, "(%d lines are missing: the console is too slow)\r\n", n)
		}
		_, _ = j.out.Write(line) // a console that is gone is no reason to stop
	}
}

// Write takes one whole line, as slog's handlers write.
func (j *journal) Write(b []byte) (int, error) {
	j.line(b)
	return len(b), nil
}

// line takes a line; when too many wait it is dropped and counted.
func (j *journal) line(b []byte) {
	text := append([]byte(nil), b...)
	if n := len(text); n == 0 || text[n-1] != '\n' {
		text = append(text, '\n')
	}
	select {
	case j.lines <- text:
	default:
		j.dropped.Add(1)
	}
}

// flush waits until everything is out, for a while.
func (j *journal) flush() {
	for end := time.Now().Add(flushLimit); len(j.lines) > 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond) // the line that is being written
}
