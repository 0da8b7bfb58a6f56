package kmod

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// Entry is a module as init sees it: a line of the index.
type Entry struct {
	Name    string
	Always  bool // loaded whatever devices there are
	Needs   []string
	Aliases []string
}

// maxIndex bounds the index, bytes.
const maxIndex = 4 << 20

// Index writes the set's index: a line each, in loading order, with words separated by spaces:
// the name, "always" or "device", what it needs separated by commas or "-", and the aliases.
func (s Set) Index(always []string) ([]byte, error) {
	var b bytes.Buffer
	for _, m := range s {
		when, needs := "device", "-"
		if slices.Contains(always, m.Name) {
			when = "always"
		}
		if len(m.Needs) > 0 {
			needs = strings.Join(m.Needs, ",")
		}
		fmt.Fprintf(&b, "%s %s %s", m.Name, when, needs)
		for _, a := range m.Aliases {
			if strings.ContainsAny(a, " \n") {
				return nil, fmt.Errorf("module %s: alias %q has a space", m.Name, a)
			}
			b.WriteString(" " + a)
		}
		b.WriteByte('\n')
	}
	return b.Bytes(), nil
}

// ReadIndex reads what Index wrote.
func ReadIndex(r io.Reader) ([]Entry, error) {
	var out []Entry
	lines := bufio.NewScanner(io.LimitReader(r, maxIndex))
	lines.Buffer(nil, maxIndex)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 3 || (words[1] != "always" && words[1] != "device") {
			return nil, fmt.Errorf("read module index: line %d is none", len(out)+1)
		}
		e := Entry{Name: words[0], Always: words[1] == "always", Aliases: words[3:]}
		if words[2] != "-" {
			e.Needs = strings.Split(words[2], ",")
		}
		out = append(out, e)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read module index: %w", err)
	}
	return out, nil
}

// Plan returns the modules to load, in order, on a machine whose devices have these identifiers
// (/sys/**/modalias), without those in loaded. Needs that are compiled into the kernel are in no index.
func Plan(index []Entry, devices []string, loaded map[string]bool) []string {
	want := map[string]bool{}
	// Backwards: whoever needs a module comes after it.
	for _, e := range slices.Backward(index) {
		if e.Always || want[e.Name] || drives(e, devices) {
			want[e.Name] = true
			for _, need := range e.Needs {
				want[need] = true
			}
		}
	}
	var out []string
	for _, e := range index {
		if want[e.Name] && !loaded[e.Name] {
			out = append(out, e.Name)
		}
	}
	return out
}

func drives(e Entry, devices []string) bool {
	for _, pattern := range e.Aliases {
		for _, d := range devices {
			// Aliases are shell patterns as fnmatch(3) knows them; an identifier has no slash.
			if ok, err := path.Match(pattern, d); err == nil && ok {
				return true
			}
		}
	}
	return false
}
