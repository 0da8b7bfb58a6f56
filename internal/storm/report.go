package storm

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// tally is what came of the faults of one kind.
type tally struct {
	Count     int `json:"count"`
	Takeovers int `json:"takeovers"` // new epochs from before the fault until the pair was in sync again
	Findings  int `json:"findings"`
	// SyncedMS: from the end of a fault until the pair was in sync again; MovedMS: until every
	// connection had moved. Median and longest.
	SyncedMS spread `json:"synced_ms"`
	MovedMS  spread `json:"moved_ms"`

	synced, moved []time.Duration
}

type spread struct {
	Median  int64 `json:"median"`
	Longest int64 `json:"longest"`
}

func spreadOf(list []time.Duration) spread {
	if len(list) == 0 {
		return spread{}
	}
	list = slices.Clone(list)
	slices.Sort(list)
	return spread{list[len(list)/2].Milliseconds(), list[len(list)-1].Milliseconds()}
}

// report of a storm.
type report struct {
	OK       bool              `json:"ok"` // no finding
	Error    string            `json:"error,omitempty"`
	Version  string            `json:"version"`
	Seed     uint64            `json:"seed"`
	Repeat   string            `json:"repeat"`
	Duration float64           `json:"duration_s"`
	Faults   int               `json:"faults"`
	Kinds    map[string]*tally `json:"kinds"` // by fault and target
	Load     loadCount         `json:"load"`
	Starved  starving          `json:"starved"` // how often a process waited for a CPU for half a second or more, and what the machine lost
	Findings []*finding        `json:"findings"`
	Found    int               `json:"found"` // findings, those that were not kept among them
	Evidence string            `json:"evidence,omitempty"`
}

func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "\n%d faults in %s; seed %d\n", r.Faults, time.Duration(r.Duration*float64(time.Second)).Round(time.Second), r.Seed)
	fmt.Fprintf(w, "%d connections, %.2f GiB checked; wrong bytes in %d, lost %d, lost as SAFETY.md states in advance %d, written off %d; %d real downloads\n\n",
		r.Load.Connections, float64(r.Load.Bytes)/(1<<30), r.Load.Wrong, r.Load.Lost, r.Load.Stated, r.Load.WrittenOff, r.Load.Real)
	if r.Starved.Times > 0 {
		fmt.Fprintf(w, "starved %d times: an appliance, the witness or the load waited for a CPU for %v or more, %d ms at most; standstills count from the end of that\n\n",
			r.Starved.Times, starvedFrom, r.Starved.LongestMS)
	}
	fmt.Fprintf(w, "%-42s %6s %9s %8s %17s %17s\n", "fault", "times", "takeovers", "findings", "in sync after, ms", "all moving, ms")
	fmt.Fprintf(w, "%-42s %6s %9s %8s %17s %17s\n", "", "", "", "", "median   longest", "median   longest")
	if r.Starved.Dropped > 0 {
		fmt.Fprintf(w, "the kernel dropped %d packets because the backlog of a CPU was full (net.core.netdev_max_backlog); standstills count from the end of that\n\n", r.Starved.Dropped)
	}
	var names []string
	for name := range r.Kinds {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		t := r.Kinds[name]
		fmt.Fprintf(w, "%-42s %6d %9d %8d %7d %9d %7d %9d\n", name, t.Count, t.Takeovers, t.Findings, t.SyncedMS.Median, t.SyncedMS.Longest, t.MovedMS.Median, t.MovedMS.Longest)
	}
	if len(r.Findings) == 0 {
		fmt.Fprintf(w, "\nno finding\n")
		return
	}
	fmt.Fprintf(w, "\n%d findings:\n", r.Found)
	for i, f := range r.Findings {
		if i == 50 {
			fmt.Fprintf(w, "  ... (--json has them all)\n")
			break
		}
		fmt.Fprintf(w, "  %s after fault %d (%s): %s\n", f.Kind, f.Fault, f.What, f.Detail)
		if f.Starved != "" {
			fmt.Fprintf(w, "    starved: %s\n", f.Starved)
		}
		if f.Then != "" {
			fmt.Fprintf(w, "    then: %s\n", f.Then)
		}
		if f.Folder != "" {
			fmt.Fprintf(w, "    %s\n", f.Folder)
		}
	}
	fmt.Fprintf(w, "\nto repeat: %s\n", r.Repeat)
}

// view prints what happens, a line each.
type view struct {
	mu     sync.Mutex
	out    io.Writer
	colour bool
	start  time.Time
	lines  []string // the latest, for evidence
}

const keptLines = 40

func newView(out io.Writer) *view {
	v := &view{out: out, start: time.Now()}
	if f, ok := out.(*os.File); ok {
		v.colour = term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	}
	return v
}

func (v *view) say(format string, args ...any) { v.line("", format, args...) }

func (v *view) bad(format string, args ...any) { v.line("\x1b[1;31m", format, args...) }

func (v *view) line(style, format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	d := now.Sub(v.start)
	line := fmt.Sprintf("%s %3d:%02d  %s", now.Format("15:04:05.000"), int(d.Minutes()), int(d.Seconds())%60, fmt.Sprintf(format, args...))
	if v.lines = append(v.lines, line); len(v.lines) > keptLines {
		v.lines = v.lines[1:]
	}
	if v.colour && style != "" {
		line = style + line + "\x1b[0m"
	}
	fmt.Fprintln(v.out, strings.TrimRight(line, "\n"))
}

func (v *view) latest() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.lines)
}
