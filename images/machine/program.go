package machine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// exitRefused is the program's exit status for a wrong configuration.
	exitRefused = 2
	// stopGrace is how long a program that was told to stop may take: a hand-over and its clean-up.
	stopGrace = 20 * time.Second
	// Pauses before a program that ended is started again; the longest also while it ends at once
	// each time.
	firstPause = 500 * time.Millisecond
	lastPause  = 10 * time.Second
	// steady is how long a program must have run for its end to be a new story.
	steady = time.Minute
	// lastWords is how many lines of a program that ended are shown.
	lastWords = 6
)

// supervise runs the program until the machine is to end, starting it again whenever it ends.
// It returns an error when the program refuses its configuration.
func (m *machine) supervise(j *job) error {
	pause := firstPause
	for m.ending.Err() == nil {
		begun := time.Now()
		said, err := m.runOnce(j)
		if m.ending.Err() != nil {
			return nil
		}
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == exitRefused {
			return fmt.Errorf("%s", said)
		}
		if time.Since(begun) > steady {
			pause = firstPause
		}
		m.log.Error("the program ended; it is started again", "err", err, "in", pause)
		m.screen.problem(fmt.Errorf("the program ended (%v), it is started again:\n%s", orStatus0(err), said))
		m.sleep(pause)
		pause = min(2*pause, lastPause)
	}
	return nil
}

func orStatus0(err error) any {
	if err == nil {
		return "exit status 0"
	}
	return err
}

// runOnce starts the program and returns when it has ended, with the last lines it wrote.
func (m *machine) runOnce(j *job) (said string, err error) {
	cmd := exec.Command(programPath, j.args...)
	cmd.Args[0] = "lockstep"
	cmd.Dir = "/"
	cmd.Env = []string{"HOME=/"}
	if limit := memoryLimit("/proc/meminfo"); limit > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprintf("GOMEMLIMIT=%d", limit))
	}
	out, err := cmd.StderrPipe()
	if err != nil {
		return "", fmt.Errorf("start the program: %w", err)
	}
	cmd.Stdout = cmd.Stderr
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start the program: %w", err)
	}
	m.log.Info("program started", "args", strings.Join(j.args, " "), "pid", cmd.Process.Pid)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { said = m.pass(out) })
	wg.Go(func() { m.watchProgram(ctx, j, cmd) })
	wg.Go(func() { stopWith(m.ending, ctx, cmd) })
	state, err := cmd.Process.Wait()
	cancel()
	wg.Wait()
	if err == nil && !state.Success() {
		err = &exec.ExitError{ProcessState: state}
	}
	return said, err
}

// memoryLimit is what the program's garbage collector is told to keep below, three quarters of the
// machine's memory, bytes; 0: not known. limits.memory is for the administrator to set.
func memoryLimit(meminfo string) int64 {
	data, err := os.ReadFile(meminfo)
	if err != nil {
		return 0
	}
	var kib int64
	if _, err := fmt.Sscanf(string(data), "MemTotal: %d kB", &kib); err != nil {
		return 0
	}
	return kib * 1024 / 4 * 3
}

// stopWith tells the program to stop when ending ends, and kills it when it takes too long.
func stopWith(ending, ended context.Context, cmd *exec.Cmd) {
	select {
	case <-ended.Done():
		return
	case <-ending.Done():
	}
	_ = cmd.Process.Signal(syscall.SIGTERM) // one that has ended is what we want
	select {
	case <-ended.Done():
	case <-time.After(stopGrace):
		_ = cmd.Process.Kill()
	}
}

// pass copies the program's lines to the journal and returns the last ones.
func (m *machine) pass(r io.Reader) string {
	var last []string
	lines := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := lines.ReadSlice('\n')
		if len(line) > 0 { // a line longer than the buffer comes in pieces
			m.journal.line(line)
			if last = append(last, strings.TrimRight(string(line), "\n")); len(last) > lastWords {
				last = last[1:]
			}
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return strings.Join(last, "\n")
		}
	}
}
