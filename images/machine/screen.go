package machine

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

// screenDevice is the console's first virtual terminal: what a hypervisor's window shows.
const screenDevice = "/dev/tty1"

// screen shows on one page who this machine is, how the appliance is, and what is wrong.
type screen struct {
	out     *os.File // nil: the machine has no screen
	version string
	begun   time.Time

	mu      sync.Mutex
	page    page
	changed chan struct{} // has one element when there is something new
}

// page is what there is to show.
type page struct {
	name, origin, state string
	status              string
	problem             string
	note                string
}

func openScreen(version string) *screen {
	s := &screen{version: version, begun: time.Now(), changed: make(chan struct{}, 1)}
	s.out, _ = os.OpenFile(screenDevice, os.O_WRONLY|unix.O_NOCTTY, 0)
	return s
}

func (s *screen) update(change func(*page)) {
	s.mu.Lock()
	before := s.page
	change(&s.page)
	after := s.page
	s.mu.Unlock()
	if before != after {
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}
}

func (s *screen) machine(name, origin, state string) {
	s.update(func(p *page) { p.name, p.origin, p.state = name, origin, state })
}

func (s *screen) status(text string) { s.update(func(p *page) { p.status = text }) }

// problem shows an error, or takes it away.
func (s *screen) problem(err error) {
	s.update(func(p *page) {
		p.problem = ""
		if err != nil {
			p.problem, p.status = err.Error(), ""
		}
	})
}

func (s *screen) note(text string) { s.update(func(p *page) { p.note = text }) }

// run draws whenever something has changed, and every few seconds over what the kernel wrote.
func (s *screen) run(ctx context.Context) {
	if s.out == nil {
		return
	}
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		s.show()
		select {
		case <-s.changed:
		case <-tick.C:
		case <-ctx.Done():
			s.show() // the last words
			return
		}
	}
}

func (s *screen) show() {
	s.mu.Lock()
	p := s.page
	s.mu.Unlock()
	width, height := 80, 25
	if size, err := unix.IoctlGetWinsize(int(s.out.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 && size.Row > 0 {
		width, height = int(size.Col), int(size.Row)
	}
	_, _ = s.out.WriteString(draw(p, s.version, time.Since(s.begun), width, height))
}

// draw makes a page of at most height lines of width columns, without scrolling: from the top left
// corner, each line cleared behind its end, the cursor hidden.
func draw(p page, version string, up time.Duration, width, height int) string {
	const inverse, bold, red, plain = "\x1b[7m", "\x1b[1m", "\x1b[31;1m", "\x1b[0m"
	name := p.name
	if name == "" {
		name = "not configured"
	}
	head := fmt.Sprintf(" Lockstep %s   %s", version, name)
	since := fmt.Sprintf("up %s ", up.Round(time.Second))
	lines := []string{inverse + fit(head, max(width-len(since), 0), true) + since + plain, ""}
	if p.note != "" {
		lines = append(lines, bold+fit(p.note, width, false)+plain, "")
	}
	if p.problem != "" {
		if p.name == "" || p.status == "" {
			lines = append(lines, red+"Needs attention:"+plain)
		}
		for line := range strings.Lines(p.problem) {
			for _, piece := range wrap(printable(line), width-2) {
				lines = append(lines, "  "+piece)
			}
		}
		lines = append(lines, "", fit("It is tried again every second.", width, false))
	}
	for line := range strings.Lines(p.status) {
		lines = append(lines, fit(strings.TrimRight(line, "\n"), width, false))
	}
	if p.origin != "" {
		lines = append(lines, "", fit(p.origin, width, false), fit("state "+p.state, width, false))
	}
	if len(lines) > height-1 {
		lines = lines[:height-1]
	}
	return "\x1b[?25l\x1b[H" + strings.Join(lines, "\x1b[K\r\n") + "\x1b[K\r\n\x1b[J"
}

// printable takes away what a screen would obey: a problem quotes what somebody wrote.
func printable(line string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, line)
}

// fit cuts a line to a width, not counting escape sequences, and fills it up if asked to.
func fit(s string, width int, fill bool) string {
	columns, escape, cut := 0, false, len(s)
	for i, r := range s {
		switch {
		case r == '\x1b':
			escape = true
		case escape:
			escape = r < '@' || r > '~' || r == '['
		case columns == width:
			cut = i
		default:
			columns++
		}
		if cut != len(s) {
			break
		}
	}
	out := s[:cut]
	if cut < len(s) {
		out += "\x1b[0m"
	}
	if fill {
		out += strings.Repeat(" ", max(width-columns, 0))
	}
	return out
}

// wrap breaks a line into pieces of a width.
func wrap(s string, width int) (out []string) {
	width = max(width, 1)
	runes := []rune(s)
	for len(runes) > width {
		out = append(out, string(runes[:width]))
		runes = runes[width:]
	}
	return append(out, string(runes))
}
