package bench

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"lockstep/appliance/control"
	"lockstep/internal/lab"
)

// document is the JSON form of a bench.
type document struct {
	Header  header      `json:"header"`
	Figures []figure    `json:"figures"`
	Cells   []cellEntry `json:"cells"`
	Targets []verdict   `json:"targets"`
}

// header says where and when the figures were taken.
type header struct {
	Date       time.Time `json:"date"`
	Took       float64   `json:"took_seconds"`
	Lockstep   string    `json:"lockstep"`
	Go         string    `json:"go"`
	Kernel     string    `json:"kernel"`
	HAProxy    string    `json:"haproxy"`
	CPU        string    `json:"cpu"`
	CPUs       int       `json:"cpus"`
	Congestion string    `json:"congestion_control"`
	Path       string    `json:"path,omitempty"`
	Protection string    `json:"protection,omitempty"`
	LoadBefore string    `json:"load_before"` // averages over 1, 5 and 15 minutes
	Rounds     int       `json:"rounds"`
	Runs       int       `json:"runs"`
	Duration   string    `json:"duration"`
	// Share of the CPUs that others used during measurements, percent.
	OthersMedian float64 `json:"others_cpu_median_percent"`
	OthersMax    float64 `json:"others_cpu_max_percent"`
	// Share of the CPUs that a hypervisor withheld while the bench ran, percent.
	Stolen float64 `json:"stolen_cpu_percent"`

	before machine
}

// cellEntry is one cell.
type cellEntry struct {
	Offload mode     `json:"offload"`
	Gateway kind     `json:"gateway"`
	Figure  string   `json:"figure"`
	Median  *float64 `json:"median"`
	Samples []sample `json:"samples,omitempty"`
	Note    string   `json:"note,omitempty"`
}

func newHeader(o options) header {
	m := lab.LookAtMachine()
	h := header{
		Date: time.Now().Truncate(time.Second), Lockstep: control.Version(), Go: runtime.Version(),
		CPUs: m.CPUs, CPU: m.CPU, Kernel: m.Kernel, Congestion: cmp.Or(o.congestion, m.Congestion), Path: o.path, Protection: o.protection, LoadBefore: m.Load,
		Rounds: o.rounds, Runs: o.runs, Duration: o.duration.String(), HAProxy: haproxyVersion(),
	}
	h.before, _ = readMachine() // the bench fails soon where it cannot be read
	return h
}

func haproxyVersion() string {
	path, err := find("haproxy")
	if err != nil {
		return noteMissing
	}
	out, err := exec.Command(path, "-v").Output()
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	for _, w := range strings.Fields(line) { // "HAProxy version 2.6.12-1+deb12u4 2026/…"
		if w[0] >= '0' && w[0] <= '9' {
			return w
		}
	}
	return line
}

// report is the whole result.
func (b *bench) report(h header) document {
	h.Took = time.Since(b.begin).Round(time.Second).Seconds()
	if m, ok := median(b.others); ok {
		h.OthersMedian, h.OthersMax = 100*m, 100*slices.Max(b.others)
	}
	if now, err := readMachine(); err == nil && h.Took > 0 {
		h.Stolen = 100 * (now.stolen - h.before.stolen).Seconds() / h.Took / float64(h.CPUs)
	}
	d := document{Header: h}
	all := targets(b.busy, b.connections)
	if b.crowd > 0 {
		all = scaleTargets()
	}
	for _, f := range b.figures() {
		if b.wanted(f.ID) {
			d.Figures = append(d.Figures, f)
		}
	}
	for _, m := range b.modes {
		for _, f := range d.Figures {
			for _, k := range b.gateways {
				c := b.samples.cells[key{m, k, f.ID}]
				if c == nil {
					continue
				}
				e := cellEntry{Offload: m, Gateway: k, Figure: f.ID, Samples: c.samples, Note: c.note}
				if v, ok := b.samples.median(key{m, k, f.ID}); ok {
					e.Median = &v
				}
				d.Cells = append(d.Cells, e)
			}
		}
		for _, v := range judge(b.samples, m, all) {
			if v.Value != nil || b.only.String() == "" {
				d.Targets = append(d.Targets, v)
			}
		}
	}
	return d
}

func (d document) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(d); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}

// othersTolerated is how busy others may keep the machine before the report warns, percent.
const othersTolerated = 5

// text is the report for people.
func (d document) text(w io.Writer) error {
	var out strings.Builder
	h := d.Header
	fmt.Fprintf(&out, "Lockstep %s, %s, took %.0f s\n", h.Lockstep, h.Date.Format(time.RFC3339), h.Took)
	fmt.Fprintf(&out, "%d CPUs (%s), Linux %s, %s, HAProxy %s\n", h.CPUs, h.CPU, h.Kernel, h.Go, h.HAProxy)
	fmt.Fprintf(&out, "congestion control %s; load before: %s\n", h.Congestion, h.LoadBefore)
	if h.Path != "" {
		fmt.Fprintf(&out, "path of every service: %s\n", h.Path)
	}
	if h.Protection != "" {
		fmt.Fprintf(&out, "protection of every service that all gateways have: %s\n", h.Protection)
	}
	fmt.Fprintf(&out, "All ends share these CPUs: client, gateway (of a pair both) and server. Medians of\n"+
		"%s of %s, of the failover without idle connections of %s; ratios and differences are\ntaken within a round, then their median.\n",
		plural(h.Rounds, "round"), h.Duration, plural(h.Runs, "run"))
	fmt.Fprintf(&out, "Pairs run with failure_timeout %v, unless a row says otherwise. Latencies of 32 connections are those of a saturated machine.\n", failureTimeout)
	fmt.Fprintf(&out, "Memory is what processes have resident, %d connections for proxies: the kernel's has a row of its own.\n", proxyIdle)
	fmt.Fprintf(&out, "CPU used by others during measurements: %.0f %% (median), %.0f %% at most; withheld by a hypervisor: %.1f %%.\n",
		h.OthersMedian, h.OthersMax, h.Stolen)
	if h.OthersMedian > othersTolerated {
		out.WriteString("The machine was NOT quiet: take the figures as a rough picture only.\n")
	}
	for _, m := range []mode{offloadOff, offloadOn} {
		d.table(&out, m, m.title(), func(f figure) bool { return !f.cut() })
		d.table(&out, m, "pairs with the front and the back cable of the active pulled under one download, offloads "+string(m), figure.cut)
	}
	d.verdicts(&out)
	if _, err := io.WriteString(w, out.String()); err != nil {
		return fmt.Errorf("print report: %w", err)
	}
	return nil
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// table of some figures in one mode, with the notes below.
func (d document) table(out *strings.Builder, m mode, title string, in func(figure) bool) {
	var figures []figure
	for _, f := range d.Figures {
		if in(f) {
			figures = append(figures, f)
		}
	}
	cells := make(map[key]cellEntry)
	var across []kind
	for _, c := range d.Cells {
		if c.Offload == m && slices.ContainsFunc(figures, func(f figure) bool { return f.ID == c.Figure }) {
			cells[key{m, c.Gateway, c.Figure}] = c
			if !slices.Contains(across, c.Gateway) {
				across = append(across, c.Gateway)
			}
		}
	}
	if len(cells) == 0 {
		return
	}
	slices.SortFunc(across, func(a, b kind) int { return slices.Index(columns, a) - slices.Index(columns, b) })
	rows := [][]string{{"", "unit"}}
	for _, k := range across {
		rows[0] = append(rows[0], k.title())
	}
	var notes []string
	for _, f := range figures {
		row, any := []string{f.Title, f.Unit}, false
		for _, k := range across {
			c, ok := cells[key{m, k, f.ID}]
			any = any || ok
			row = append(row, c.text(f.digits, &notes))
		}
		if any {
			rows = append(rows, row)
		}
	}
	fmt.Fprintf(out, "\n%s\n\n", strings.ToUpper(title[:1])+title[1:])
	align(out, rows, 2)
	for i, n := range notes {
		fmt.Fprintf(out, "[%d] %s\n", i+1, strings.ReplaceAll(n, "\n", "\n    "))
	}
}

// text of a cell; a note that explains a failure goes below the table, each one once.
func (c cellEntry) text(digits int, notes *[]string) string {
	mark := ""
	switch c.Note {
	case "":
	case noteMissing, noteOutOfTime, noteLost:
		if c.Median == nil {
			return c.Note
		}
	default:
		i := slices.Index(*notes, c.Note)
		if i < 0 {
			i = len(*notes)
			*notes = append(*notes, c.Note)
		}
		mark = fmt.Sprintf(" [%d]", i+1)
	}
	switch {
	case c.Median != nil:
		return fmt.Sprintf("%.*f", digits, *c.Median) + mark
	case mark != "":
		return "failed" + mark
	default:
		return "-"
	}
}

func (d document) verdicts(out *strings.Builder) {
	if len(d.Targets) == 0 {
		return
	}
	rows := [][]string{{"target", "offload", "demanded", "measured", ""}}
	for _, v := range d.Targets {
		sign, result, value := "<=", "MISS", "-"
		if v.AtLeast {
			sign = ">="
		}
		if v.Pass {
			result = "pass"
		}
		if v.Value == nil {
			result = "not measured"
		} else {
			value = strings.TrimSpace(fmt.Sprintf("%.*f %s", v.digits, *v.Value, v.Unit))
		}
		demand := strings.TrimSpace(fmt.Sprintf("%s %g %s", sign, v.Limit, v.Unit))
		rows = append(rows, []string{v.Title, string(v.Offload), demand, value, result})
	}
	out.WriteString("\n")
	align(out, rows, 1)
}

// align prints rows in columns: the first `left` of them to the left, the others to the right.
func align(out *strings.Builder, rows [][]string, left int) {
	var widths []int
	for _, r := range rows {
		for i, s := range r {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(s))
		}
	}
	for _, r := range rows {
		var line strings.Builder
		for i, s := range r {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(s))
			if i > 0 {
				line.WriteString("  ")
			}
			if i < left {
				line.WriteString(s + pad)
			} else {
				line.WriteString(pad + s)
			}
		}
		out.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}
