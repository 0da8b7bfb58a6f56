package bench

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"lockstep/internal/lab"
)

// One request at a time takes as long as it takes to wake who is asked: some microseconds on the CPU of who asks, ten times as
// much on another one that has halted. Where the scheduler puts the two is chance, so it is said.

// placement is on which CPUs client and server are.
type placement string

const (
	anywhere placement = ""         // where the scheduler puts them
	apart    placement = "apart"    // on one each
	together placement = "together" // on the same
)

var errOneCPU = errors.New(noteOneCPU)

// place pins client and server until they are placed anywhere.
func (b *bed) place(how placement) error {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return fmt.Errorf("CPUs of this process: %w", err)
	}
	client, server := all, all
	if how != anywhere {
		first, last, err := ends(&all)
		if err != nil {
			return err
		}
		client, server = first, last
		if how == together {
			client = last
		}
	}
	return errors.Join(pin(b.client.Proc, &client), pin(b.servers[0].Proc, &server))
}

// ends are the first and the last CPU of a set.
func ends(all *unix.CPUSet) (first, last unix.CPUSet, err error) {
	n := 0
	for i := range 8 * len(all) * 8 {
		if !all.IsSet(i) {
			continue
		}
		if n++; n == 1 {
			first.Set(i)
		}
		last.Zero()
		last.Set(i)
	}
	if n < 2 {
		return first, last, errOneCPU
	}
	return first, last, nil
}

// pin binds all threads of a process to CPUs; those that they begin are bound, too.
func pin(p *lab.Proc, to *unix.CPUSet) error {
	dir := fmt.Sprintf("/proc/%d/task", p.PID())
	threads, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("threads of %s: %w", p.Name(), err)
	}
	for _, t := range threads {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := unix.SchedSetaffinity(tid, to); err != nil && !errors.Is(err, unix.ESRCH) { // it has ended
			return fmt.Errorf("bind a thread of %s: %w", p.Name(), err)
		}
	}
	return nil
}
