package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// results is the file.
type results struct {
	Date     string            `json:"date"`
	Kernel   string            `json:"kernel"`
	Versions map[string]string `json:"versions"` // of Debian's packages
	Cells    []cell            `json:"cells"`    // in the order of peers
}

func readResults(path string) (r results, err error) {
	r.Versions = map[string]string{}
	text, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(text, &r)
}

// put replaces results of peers, in the modes that were tried.
func (r *results) put(tried []peer, cells []cell) {
	has := func(c cell) bool {
		return slices.ContainsFunc(cells, func(n cell) bool { return n.Peer == c.Peer && n.Mode == c.Mode })
	}
	known := peers()
	r.Cells = append(slices.DeleteFunc(r.Cells, has), cells...)
	at := func(c cell) int { return slices.IndexFunc(known, func(p peer) bool { return p.Name == c.Peer }) }
	r.Cells = slices.DeleteFunc(r.Cells, func(c cell) bool { return at(c) < 0 })
	slices.SortStableFunc(r.Cells, func(a, b cell) int { return at(a) - at(b) })
	for _, p := range tried {
		for _, name := range p.debian() {
			r.Versions[name] = version(name)
		}
	}
	r.Date = time.Now().UTC().Format(time.DateOnly)
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		r.Kernel, _, _ = strings.Cut(strings.TrimSpace(string(text)), "-")
	}
}

// debian are the packages whose versions say what was tried.
func (p peer) debian() (names []string) {
	if len(p.packages) > 0 {
		return p.packages
	}
	for _, program := range p.programs {
		_, name, _ := strings.Cut(program, ":")
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// version of an installed package, without Debian's epoch and revision.
func version(name string) string {
	out, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", name).Output()
	if err != nil {
		return "" // it is not installed
	}
	v := string(out)
	if _, after, ok := strings.Cut(v, ":"); ok {
		v = after
	}
	if i := strings.LastIndexByte(v, '-'); i > 0 {
		v = v[:i]
	}
	v, _, _ = strings.Cut(v, "+")
	return v
}

func (r *results) write(file, page string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		return err
	}
	old, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	mended, err := r.mend(string(old))
	if err != nil {
		return fmt.Errorf("%s: %w", page, err)
	}
	return os.WriteFile(page, []byte(mended), 0o644)
}

// The table stands between these lines of the page.
const (
	tableBegins = "<!-- made by `make services`: -->\n"
	tableEnds   = "<!-- : made by `make services` -->\n"
)

// mend puts the table into the page.
func (r *results) mend(page string) (string, error) {
	before, rest, ok := strings.Cut(page, tableBegins)
	_, after, ok2 := strings.Cut(rest, tableEnds)
	if !ok || !ok2 {
		return "", errors.New("the lines that the table stands between are missing")
	}
	return before + tableBegins + r.table() + tableEnds + after, nil
}

// table is the page's.
func (r *results) table() string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "Tried on %s with Debian's packages, Linux %s:\n\n", r.Date, r.Kernel)
	b.WriteString("| server, client | `gateway`: an appliance dies; hands over; both die in turn | its server dies | `log`: an appliance dies; a server; both | `hot`: the same |\n|---|---|---|---|---|\n")
	for _, p := range peers() {
		var versions []string
		for _, name := range p.debian() {
			versions = append(versions, name+" "+r.Versions[name])
		}
		fmt.Fprintf(&b, "| %s, %s (%s) | %s | %s | %s | %s |\n", p.Name, p.Client, strings.Join(versions, ", "),
			r.cells(p, []string{"gateway", "netstack"}, "appliance", "switchover", "both"), r.cells(p, []string{"gateway", "netstack"}, "server"),
			r.kept(p, "log"), r.kept(p, "hot"))
	}
	return b.String()
}

func (r *results) kept(p peer, mode string) string {
	if !p.kept {
		return "-"
	}
	return r.cells(p, []string{mode}, "appliance", "server", "both")
}

// cells says in as few words as can be what came of faults: once what was the same.
func (r *results) cells(p peer, modes []string, faults ...string) string {
	var parts []string
	for _, f := range faults {
		var said []string
		for _, m := range modes {
			text := "not tried"
			for _, c := range r.Cells {
				if c.Peer == p.Name && c.Mode == m && c.Fault == f {
					text = c.words()
				}
			}
			said = append(said, text)
		}
		if len(said) == 2 && said[0] != said[1] {
			parts = append(parts, fmt.Sprintf("%s (`path: netstack`: %s)", said[0], said[1]))
			continue
		}
		parts = append(parts, said[0])
	}
	if len(slices.Compact(slices.Clone(parts))) == 1 {
		return parts[0]
	}
	return strings.Join(parts, "; ")
}

func (c cell) words() string {
	if c.How == "" {
		return c.Result
	}
	return c.Result + ": " + strings.ReplaceAll(strings.ReplaceAll(c.How, "|", `\|`), "`", "'")
}

// faults of the product: what fails under gateway though no server has died.
func (r *results) faults() error {
	var all error
	for _, c := range r.Cells {
		if (c.Mode == "gateway" || c.Mode == "netstack") && c.Fault != "server" && c.Result != unnoticed {
			all = errors.Join(all, fmt.Errorf("%s, %s, %s: %s %s", c.Peer, c.Mode, c.Fault, c.Result, c.How))
		}
	}
	return all
}
