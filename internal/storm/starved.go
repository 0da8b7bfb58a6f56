package storm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"lockstep/internal/lab"
)

// A machine without a CPU to spare does to a pair what a fault does, and tells nobody. The storm asks the kernel for
// how long it has let the processes wait, and says so: a standstill counts from the end of such a time on, as from a
// fault's, but not for ever. What is wrong or lost is never excused by it.
//
// Nor does it tell anybody that it loses packets. A cable of the lab ends in the backlog of a CPU, which all processes of
// the machine share; when that is full the sender's kernel tries again half a second later, as often as it is. So the storm
// asks for that, too.

const (
	sampleEvery = 100 * time.Millisecond
	// starvedFrom is from when on a wait is one that connections stand still for.
	starvedFrom = 500 * time.Millisecond
	// starvedLooks is how many looks without progress are a finding on the most starved machine.
	starvedLooks = 6 * stillLooks
)

// starving is what a report says of it.
type starving struct {
	Times     int    `json:"times"`
	LongestMS int64  `json:"longest_ms"`
	Dropped   uint64 `json:"backlog_drops"` // packets that the kernel has dropped, of whomever
	Last      string `json:"last,omitempty"`
	ended     time.Time
}

// hunger watches how processes get their CPUs.
type hunger struct {
	procs   func() map[string]int // process numbers by name
	delays  func(pid int) map[string]time.Duration
	starves func(name string, waited time.Duration, more bool) // more: it is the same wait as before
	backlog func() uint64                                      // packets dropped so far
	loses   func(packets uint64)

	lost  uint64 // of backlog
	at    time.Time
	last  map[string]map[string]time.Duration // by name and thread
	waits map[string]time.Duration            // by name, of the samples in a row in which it waited
}

func newHunger(s *storm) *hunger {
	procs := func() map[string]int {
		all := map[string]int{"the load": os.Getpid()}
		for _, n := range s.nodes.Nodes() {
			if p := n.Process(); p != nil && p.Running() {
				all[n.Name] = p.PID()
			}
		}
		return all
	}
	return &hunger{
		procs: procs, delays: runDelays, starves: s.starves, backlog: backlogDrops, loses: s.loses, lost: backlogDrops(),
		last: make(map[string]map[string]time.Duration), waits: make(map[string]time.Duration),
	}
}

func (h *hunger) watch(ctx context.Context) {
	for h.look(time.Now()); lab.Pause(ctx, sampleEvery) == nil; {
		h.look(time.Now())
	}
}

// look takes a sample. A wait is counted when it ends: then one sample has all of it.
func (h *hunger) look(now time.Time) {
	interval := now.Sub(h.at)
	h.at = now
	if n := h.backlog(); n > h.lost {
		h.loses(n - h.lost)
		h.lost = n
	}
	for name, pid := range h.procs() {
		threads := h.delays(pid)
		var worst time.Duration
		for id, d := range threads {
			if before, ok := h.last[name][id]; ok {
				worst = max(worst, d-before)
			}
		}
		h.last[name] = threads
		if worst < interval*3/4 {
			h.waits[name] = 0
			continue
		}
		before := h.waits[name]
		if h.waits[name] += worst; h.waits[name] >= starvedFrom {
			h.starves(name, h.waits[name], before >= starvedFrom)
		}
	}
}

// runDelays is for how long each thread of a process has been ready to run and has not run, as its kernel
// tells (proc(5), schedstat).
func runDelays(pid int) map[string]time.Duration {
	all := make(map[string]time.Duration)
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		if fields := strings.Fields(string(text)); len(fields) > 1 {
			ns, _ := strconv.ParseInt(fields[1], 10, 64)
			all[f] = time.Duration(ns)
		}
	}
	return all
}

// backlogDrops is how many packets the kernel has dropped because the backlog of a CPU was full: the second
// number of each line, hexadecimal.
func backlogDrops() (n uint64) {
	text, _ := os.ReadFile("/proc/net/softnet_stat") // who has none is told of none
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 {
			dropped, _ := strconv.ParseUint(fields[1], 16, 64)
			n += dropped
		}
	}
	return n
}

// loses notes that the machine has lost packets: what stands still now has until some time after that.
func (s *storm) loses(packets uint64) {
	s.mu.Lock()
	t := &s.starved
	t.Dropped, t.ended = t.Dropped+packets, time.Now()
	t.Last = fmt.Sprintf("the kernel dropped %d packets of whomever, its backlog was full, until %s", packets, t.ended.Format("15:04:05.000"))
	s.mu.Unlock()
	s.load.starves()
}

// starves notes that a process has waited for a CPU: what stands still now has until some time after that.
func (s *storm) starves(name string, d time.Duration, more bool) {
	s.mu.Lock()
	t := &s.starved
	if !more {
		t.Times++
	}
	t.LongestMS, t.ended = max(t.LongestMS, d.Milliseconds()), time.Now()
	t.Last = fmt.Sprintf("%s waited for a CPU for %v until %s", name, d.Round(time.Millisecond), t.ended.Format("15:04:05.000"))
	s.mu.Unlock()
	s.load.starves()
}

// starves counts looks anew, as a fault's end does.
func (l *load) starves() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for f := range l.flights {
		f.still, f.allowed = 0, 0
	}
}

// hungry says of a finding whether a process had to wait for a CPU shortly before; s.mu is held.
func (s *storm) hungry() string {
	if s.starved.ended.IsZero() || time.Since(s.starved.ended) > statedFor {
		return ""
	}
	return s.starved.Last
}
