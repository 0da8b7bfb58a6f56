package lockstep_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"lockstep/appliance/metrics"
	"lockstep/appliance/witness"
)

// pagesForUsers are all but what was, and what is somebody else's.
func pagesForUsers(t *testing.T) map[string]string {
	t.Helper()
	pages := documents(t)
	for name := range pages {
		if name == "CHANGELOG.md" || strings.HasPrefix(name, "findings/") {
			delete(pages, name)
		}
	}
	return pages
}

// Keys of the configuration that pages name (`pair.state`, `networks.*.reach`, `limits.log`) exist. A
// page may leave out what a key stands in, but not what comes between.
func TestKeysInDocuments(t *testing.T) {
	keys := map[string]bool{}
	tops := map[string]bool{}
	for _, file := range []string{"lockstep.example.yaml", "lockstep.witness.example.yaml", "pair.example.yaml"} {
		var root yaml.Node
		if err := yaml.Unmarshal([]byte(read(t, file)), &root); err != nil {
			t.Fatal(err)
		}
		collectKeys(&root, nil, keys, tops)
	}
	dotted := regexp.MustCompile(`^([a-z_]{2,})((?:\[\])?\.[a-z_*.\[\]]+)$`)
	found := 0
	for name, page := range pagesForUsers(t) {
		for _, m := range code.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
			word, _, _ := strings.Cut(m[1], ":")
			parts := dotted.FindStringSubmatch(word)
			if parts == nil || !tops[parts[1]] || sourceName.MatchString(word) {
				continue
			}
			word = strings.ReplaceAll(word, "[]", "")
			found++
			like := regexp.MustCompile(`(^|\.)` + strings.ReplaceAll(regexp.QuoteMeta(word), `\*`, `[a-z_0-9]+`) + `$`)
			known := false
			for key := range keys {
				known = known || like.MatchString(key)
			}
			if !known {
				t.Errorf("%s names the key %s, which does not exist", name, m[1])
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d keys were found", found)
	}
}

// collectKeys notes every key with those above it, and those that have others beneath them.
func collectKeys(n *yaml.Node, above []string, keys, tops map[string]bool) {
	if n.Kind != yaml.MappingNode {
		for _, c := range n.Content {
			collectKeys(c, above, keys, tops)
		}
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		path := append(above[:len(above):len(above)], n.Content[i].Value)
		keys[strings.Join(path, ".")] = true
		if v := n.Content[i+1]; v.Kind == yaml.MappingNode || v.Kind == yaml.SequenceNode && len(v.Content) > 0 && v.Content[0].Kind == yaml.MappingNode {
			tops[n.Content[i].Value] = true
		}
		collectKeys(n.Content[i+1], path, keys, tops)
	}
}

// Targets of make and commands of lockstep that pages name exist; so do the metrics.
func TestCommandsInDocuments(t *testing.T) {
	makefile, sources := read(t, "Makefile"), literals(t)
	make, run := regexp.MustCompile("`make ([a-z-]+)"), regexp.MustCompile("`(?:sudo )?lockstep ([a-z]+)")
	metric := regexp.MustCompile(`\blockstep_\w+`)
	known := map[string]bool{}
	for _, f := range append(metrics.Families(), witness.Families()...) {
		known[f.Name] = true
	}
	found := 0
	for name, page := range pagesForUsers(t) {
		for _, m := range make.FindAllStringSubmatch(page, -1) {
			if found++; !strings.Contains(makefile, "\n"+m[1]+":") {
				t.Errorf("%s names `make %s`, which does not exist", name, m[1])
			}
		}
		for _, m := range run.FindAllStringSubmatch(page, -1) {
			if found++; !sources[m[1]] && !sourcesBegin(sources, m[1]+" ") {
				t.Errorf("%s names `lockstep %s`, which does not exist", name, m[1])
			}
		}
		for _, m := range metric.FindAllString(page, -1) {
			if found++; !known[m] {
				t.Errorf("%s names the metric %s, which does not exist", name, m)
			}
		}
	}
	if found < 100 {
		t.Errorf("only %d names were found", found)
	}
}

func sourcesBegin(sources map[string]bool, with string) bool {
	for s := range sources {
		if strings.HasPrefix(s, with) {
			return true
		}
	}
	return false
}

// literals are the strings in the code, its tests left out.
func literals(t *testing.T) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, p := range sources(t) {
		if strings.HasSuffix(p, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if s, err := strconv.Unquote(lit.Value); err == nil {
					all[s] = true
				}
			}
			return true
		})
	}
	return all
}

// What docs/troubleshooting.md quotes of a log or of status is what the code says. Where a page has
// "...", N or M, or the name of the device, the code has something that changes.
func TestQuotedTexts(t *testing.T) {
	said := strings.Builder{}
	for s := range literals(t) {
		said.WriteString(s + "\n")
	}
	quote, gap := regexp.MustCompile(`"([^"]+)"`), regexp.MustCompile(`\.\.\.|\b[NM]\b|lockstep0`)
	found := 0
	for _, row := range table(t, read(t, "docs/troubleshooting.md"), "First look at `lockstep status`, then at the log. What a figure means is in [metrics.md](metrics.md).") {
		if strings.HasPrefix(row[0], "a capture shows") {
			continue // a tool of others says it
		}
		for _, q := range quote.FindAllStringSubmatch(row[0], -1) {
			for _, piece := range gap.Split(q[1], -1) {
				if piece = strings.Trim(piece, " :"); len(piece) < 4 {
					continue
				}
				if found++; !strings.Contains(said.String(), piece) {
					t.Errorf("docs/troubleshooting.md quotes %q, and no text in the code has %q", q[1], piece)
				}
			}
		}
	}
	if found < 15 {
		t.Errorf("only %d quotations were found", found)
	}
}
