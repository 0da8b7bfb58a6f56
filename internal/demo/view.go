package demo

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// sample is one step of the timeline.
type sample struct {
	at       time.Duration // since the transfers began
	active   string        // empty: nobody
	server   string        // who serves; nobody, or empty: that is no matter here
	down, up float64       // bits per second
}

// view shows what happens: a line with a bar per 100 ms on a terminal, a plain log with a line per
// second elsewhere. Methods may be called from several goroutines.
type view struct {
	terminal bool
	colour   bool
	width    func() int // of the terminal, columns

	mu    sync.Mutex
	out   io.Writer
	start time.Time
	peak  float64 // highest rate so far, scales the bars
	held  []sample
	began bool // the header has been printed
}

// plainEvery is how many samples one line of the plain log sums up.
const plainEvery = int(time.Second / sampleEvery)

func newView(out io.Writer) *view {
	v := &view{out: out, start: time.Now(), width: func() int { return 80 }}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		v.terminal = true
		v.colour = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
		v.width = func() int {
			w, _, err := term.GetSize(int(f.Fd()))
			if err != nil {
				return 80
			}
			return w
		}
	}
	return v
}

const (
	styleReset = "\x1b[0m"
	styleBold  = "\x1b[1m"
	styleFaint = "\x1b[2m"
	styleRed   = "\x1b[1;31m"
	styleGreen = "\x1b[1;32m"
	styleDown  = "\x1b[36m"
	styleUp    = "\x1b[35m"
)

func (v *view) paint(style, s string) string {
	if !v.colour {
		return s
	}
	return style + s + styleReset
}

// say prints a line of the story.
func (v *view) say(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.flush()
	v.line(fmt.Sprintf(format, args...))
}

// mark prints what must not be missed.
func (v *view) mark(text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.flush()
	if v.terminal {
		text = v.paint(styleRed, "──── "+text+" ────")
	}
	v.line(text)
}

// line is called with the lock held.
func (v *view) line(text string) {
	if !v.terminal {
		text = fmt.Sprintf("%7.3fs  %s", time.Since(v.start).Seconds(), text)
	}
	fmt.Fprintln(v.out, text)
}

// sample shows one step.
func (v *view) sample(s sample) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.terminal {
		if v.held = append(v.held, s); len(v.held) >= plainEvery {
			v.flush()
		}
		return
	}
	if !v.began {
		v.began = true
		column := ""
		if s.server != "" {
			column = "server  "
		}
		v.line(v.paint(styleFaint, "   time  active  "+column+"Gbit/s down    up  "+v.legend()))
	}
	v.line(v.barLine(s))
}

func (v *view) legend() string {
	return "(" + strings.Repeat("█", 2) + " download " + strings.Repeat("▒", 2) + " upload)"
}

// barLine is a line of the timeline on a terminal.
func (v *view) barLine(s sample) string {
	fixed := 38 // columns in front of the bar
	server := ""
	if s.server != "" {
		style, text := styleBold, s.server
		if text == nobody {
			style, text = styleRed, "-"
		}
		server = v.paint(style, fmt.Sprintf("%-6s", text)) + "  "
		fixed += 8
	}
	v.peak = max(v.peak, s.down+s.up, 1e6)
	room := max(min(v.width(), 160)-fixed-1, 10)
	down := int(s.down/v.peak*float64(room) + 0.5)
	up := min(int(s.up/v.peak*float64(room)+0.5), room-min(down, room))
	active := v.paint(styleRed, fmt.Sprintf("%-6s", "-"))
	if s.active != "" {
		active = v.paint(styleBold, fmt.Sprintf("%-6s", s.active))
	}
	return fmt.Sprintf("%6.1fs  %s  %s%11.2f %5.2f  %s%s", s.at.Seconds(), active, server, s.down/1e9, s.up/1e9,
		v.paint(styleDown, strings.Repeat("█", down)), v.paint(styleUp, strings.Repeat("▒", up)))
}

// flush sums the held samples up into one line of the plain log; called with the lock held.
func (v *view) flush() {
	if len(v.held) == 0 {
		return
	}
	var down, up float64
	for _, s := range v.held {
		down += s.down
		up += s.up
	}
	n := float64(len(v.held))
	last := v.held[len(v.held)-1]
	v.held = v.held[:0]
	server := ""
	if last.server != "" {
		server = fmt.Sprintf(", server %s", last.server)
	}
	v.line(fmt.Sprintf("active %s%s, download %s, upload %s", name(last.active), server, speed(down/n), speed(up/n)))
}

// speed writes a rate in bits per second.
func speed(rate float64) string {
	if rate > 0 && rate < 1e8 {
		return fmt.Sprintf("%.2f Mbit/s", rate/1e6)
	}
	return fmt.Sprintf("%.2f Gbit/s", rate/1e9)
}

func (v *view) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.flush()
}

// humanBytes is exact, with an approximation that can be read.
func humanBytes(n int64) string {
	f, unit := float64(n), ""
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if f < 1024 {
			break
		}
		f, unit = f/1024, u
	}
	if unit == "" {
		return fmt.Sprintf("%d", n)
	}
	return fmt.Sprintf("%d (%.2f %s)", n, f, unit)
}
