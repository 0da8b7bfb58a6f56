package lockstep_test

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"lockstep/appliance/metrics"
	"lockstep/appliance/witness"
)

// documents returns every page, with what it says.
func documents(t *testing.T) map[string]string {
	t.Helper()
	pages := map[string]string{}
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && p != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "bin" || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(p, ".md") {
			pages[filepath.ToSlash(p)] = read(t, p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return pages
}

func read(t *testing.T, p string) string {
	t.Helper()
	b, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var (
	fence   = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	code    = regexp.MustCompile("`([^`]+)`")
	noSlug  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors are the names by which a page's headings can be linked to, as GitHub makes them.
func anchors(page string) []string {
	var names []string
	for _, h := range heading.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
		slug := strings.ReplaceAll(noSlug.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-")
		name := slug
		for n := 1; slices.Contains(names, name); n++ {
			name = fmt.Sprintf("%s-%d", slug, n)
		}
		names = append(names, name)
	}
	return names
}

// Every link inside of the repository leads somewhere.
func TestLinks(t *testing.T) {
	pages := documents(t)
	links := 0
	for name, page := range pages {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			links++
			file, anchor, _ := strings.Cut(m[1], "#")
			target := name
			if file != "" {
				target = path.Join(path.Dir(name), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
				continue
			}
			if anchor != "" && !slices.Contains(anchors(pages[target]), anchor) {
				t.Errorf("%s links to %s, and %s has no such heading", name, m[1], target)
			}
		}
	}
	if links < 50 {
		t.Errorf("only %d links were found", links)
	}
}

// What everybody reads first stays short: the rest has pages of its own.
func TestFirstPagesAreShort(t *testing.T) {
	for page, limit := range map[string]int{"README.md": 200, "ARCHITECTURE.md": 300} {
		if n := strings.Count(read(t, page), "\n"); n >= limit {
			t.Errorf("%s has %d lines, of less than %d: which part would be a page in docs/?", page, n, limit)
		}
	}
}

// names are those of everything that is declared in the module: functions, methods, types,
// constants, variables, fields; and of the test scripts, scenarios and files.
type names struct {
	declared map[string]bool
	funcs    map[string]map[string]bool // by file: what is declared in it
	files    []string                   // with their folders
}

var (
	testName   = regexp.MustCompile(`^(Test|Fuzz|Benchmark|Example)[A-Z]\w*$`)
	sourceName = regexp.MustCompile(`^[\w/.*-]+\.(go|md|ya?ml|sh|service|xml|txt)$`)
	inFile     = regexp.MustCompile("(?s)`([\\w/]+\\.go): (\\w+(?:,\\s+\\w+)*)`")
)

func (n *names) hasFile(name string) bool {
	for _, f := range n.files {
		if f == name || strings.HasSuffix(f, "/"+name) {
			return true
		}
	}
	return false
}

// Tests, files and functions that the pages name exist. A page names a function by its file
// (`stack/rebuild.go: answerSYN`), a test and a file by their names alone.
func TestNamesInDocuments(t *testing.T) {
	n := declarations(t)
	counted := map[string]int{}
	for name, page := range documents(t) {
		if name == "CHANGELOG.md" || strings.HasPrefix(name, "findings/") {
			continue // what was, and what is somebody else's
		}
		page = fence.ReplaceAllString(page, "")
		for _, m := range inFile.FindAllStringSubmatch(page, -1) {
			for _, f := range strings.FieldsFunc(m[2], func(r rune) bool { return strings.ContainsRune(", \n", r) }) {
				counted["function"]++
				if !n.declaredIn(m[1], f) {
					t.Errorf("%s: %s declares no %s", name, m[1], f)
				}
			}
		}
		for _, m := range code.FindAllStringSubmatch(page, -1) {
			word, _, _ := strings.Cut(strings.Join(strings.Fields(m[1]), " "), ":")
			switch {
			case testName.MatchString(word):
				counted["test"]++
				if !n.declared[word] {
					t.Errorf("%s names %s, which does not exist", name, word)
				}
			case sourceName.MatchString(word) && !strings.ContainsAny(word, "*"):
				counted["file"]++
				if !n.hasFile(word) && !elsewhere[word] {
					t.Errorf("%s names the file %s, which does not exist", name, m[1])
				}
			case sourceName.MatchString(word):
				if found, _ := filepath.Glob(word); len(found) == 0 {
					t.Errorf("%s names %s, and no file matches", name, word)
				}
			}
		}
	}
	for kind, atLeast := range map[string]int{"test": 150, "file": 80, "function": 40} {
		if counted[kind] < atLeast {
			t.Errorf("only %d names of a %s were found", counted[kind], kind)
		}
	}
}

// elsewhere are files that pages name and that are no part of the repository.
var elsewhere = map[string]bool{
	"/etc/lockstep/lockstep.yaml": true, "/etc/lockstep/witness.yaml": true, "lockstep.yaml": true, "witness.yaml": true, "pair.yaml": true,
}

// table returns the rows of the first table after a heading, its head left out.
func table(t *testing.T, page, after string) [][]string {
	t.Helper()
	_, rest, ok := strings.Cut(page, "\n"+after+"\n")
	if !ok {
		t.Fatalf("no heading %q", after)
	}
	var rows [][]string
	for line := range strings.Lines(rest) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			if len(rows) > 0 {
				break
			}
			continue
		}
		var cells []string
		for _, c := range strings.Split(strings.Trim(strings.ReplaceAll(line, `\|`, "\x00"), "|"), "|") {
			cells = append(cells, strings.TrimSpace(strings.ReplaceAll(c, "\x00", "|")))
		}
		rows = append(rows, cells)
	}
	if len(rows) < 3 {
		t.Fatalf("no table after %q", after)
	}
	return rows[2:]
}

// docs/metrics.md has every metric as the code describes it, and no other.
func TestMetricsAreDocumented(t *testing.T) {
	page := read(t, "docs/metrics.md")
	for after, families := range map[string][]metrics.Family{"## Of an appliance": metrics.Families(), "## Of the witness": witness.Families()} {
		var want []string
		for _, f := range families {
			kind := "gauge"
			if f.Total {
				kind = "counter"
			}
			want = append(want, fmt.Sprintf("| `%s` | %s | %s | %s |", f.Name, kind, strings.Join(f.Labels, ", "), f.Help))
		}
		rows := table(t, page, after)
		for i := range max(len(rows), len(want)) {
			got, w := "", ""
			if i < len(rows) {
				got = "| " + strings.Join(rows[i], " | ") + " |"
			}
			if i < len(want) {
				w = want[i]
			}
			if got != w {
				t.Fatalf("docs/metrics.md, %s, row %d is\n%s\nand should be\n%s", after, i+1, got, w)
			}
		}
		for _, m := range regexp.MustCompile(`lockstep_\w+`).FindAllString(page, -1) {
			known := func(fs []metrics.Family) bool {
				return slices.ContainsFunc(fs, func(f metrics.Family) bool { return f.Name == m })
			}
			if !known(metrics.Families()) && !known(witness.Families()) {
				t.Errorf("docs/metrics.md names %s, which is no metric", m)
			}
		}
	}
}

// Each decision has every part, its number, and a line in the index.
func TestDecisions(t *testing.T) {
	index := read(t, "docs/decisions/README.md")
	files, err := filepath.Glob("docs/decisions/0*.md")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for i, f := range files {
		base := filepath.Base(f)
		page := read(t, f)
		if !strings.HasPrefix(base, fmt.Sprintf("%04d-", i+1)) {
			t.Errorf("%s: the next number would be %04d", f, i+1)
		}
		title, _, _ := strings.Cut(page, "\n")
		title, ok := strings.CutPrefix(title, fmt.Sprintf("# %d. ", i+1))
		if !ok {
			t.Errorf("%s: its title has another number", f)
		}
		if want := fmt.Sprintf("| %04d | [%s](%s) |\n", i+1, title, base); !strings.Contains(index, want) {
			t.Errorf("the index lacks %s", want)
		}
		at := 0
		for _, part := range []string{"Context", "Decision", "Rejected", "Measured", "Consequences"} {
			j := strings.Index(page[at:], "\n## "+part+"\n\n")
			if j < 0 {
				t.Errorf("%s: no %s, or in another order", f, part)
				break
			}
			at += j + 1
		}
	}
}

// The tables of ARCHITECTURE.md name every folder with code, and every library, and no other.
func TestArchitectureIsComplete(t *testing.T) {
	page := read(t, "ARCHITECTURE.md")
	folders := map[string]bool{}
	for _, f := range sources(t) {
		if dir := filepath.ToSlash(filepath.Dir(f)); dir != "." && !strings.Contains(dir, "testdata") {
			folders[dir] = true
		}
	}
	named := map[string]bool{}
	for _, row := range table(t, page, "## Packages") {
		for _, m := range code.FindAllStringSubmatch(row[0], -1) {
			dir := m[1]
			if !folders[dir] && folders["internal/"+dir] {
				dir = "internal/" + dir
			}
			named[dir] = true
			if !folders[dir] {
				t.Errorf("the table of packages has %s, where no code is", m[1])
			}
		}
	}
	for dir := range folders {
		if !named[dir] {
			t.Errorf("the table of packages lacks %s", dir)
		}
	}
	libraries := ""
	for _, row := range table(t, page, "## Libraries") {
		libraries += row[0] + "\n"
	}
	for line := range strings.Lines(read(t, "go.mod")) {
		fields := strings.Fields(strings.TrimPrefix(line, "require "))
		if len(fields) != 2 || !strings.Contains(fields[0], ".") || !strings.HasPrefix(fields[1], "v") {
			continue // with // indirect there are more
		}
		name := regexp.MustCompile(`/v\d+$`).ReplaceAllString(strings.TrimPrefix(fields[0], "github.com/"), "")
		if name = strings.TrimPrefix(name, "github.com/"); !strings.Contains(libraries, name) {
			t.Errorf("the table of libraries lacks %s", fields[0])
		}
	}
}
