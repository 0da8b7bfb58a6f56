package lockstep_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	camel     = regexp.MustCompile(`^[A-Za-z]*[a-z][A-Z]\w*$`)
	qualified = regexp.MustCompile(`\b([A-Z]\w*)\.([A-Za-z]\w*)\b`)
	snake     = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9*]+)+\*?$`)
	scenario  = regexp.MustCompile(`^\d\d_\w+$`)
)

// spans are the pieces of code in a page's text.
func spans(page string) (all []string) {
	for _, m := range code.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
		all = append(all, strings.Join(strings.Fields(m[1]), " "))
	}
	return all
}

// What the pages about the code call by a name is declared: `doubtTime`, `Core.Takeover` as a method or field of
// that type, and a script or scenario is a file.
func TestIdentifiersInDocuments(t *testing.T) {
	n, all := declarations(t), membersOf(t)
	counted := map[string]int{}
	for name, page := range documents(t) {
		if name != "ARCHITECTURE.md" && name != "SAFETY.md" && !strings.HasPrefix(name, "docs/") || name == "docs/services.md" || name == "docs/deploy.md" {
			continue // these two name what is others'
		}
		for _, s := range spans(page) {
			for _, m := range qualified.FindAllStringSubmatch(s, -1) {
				counted["member"]++
				if typ, known := all[m[1]]; known && !typ.has(m[2], all) {
					t.Errorf("%s: `%s`: no type %s has %s", name, s, m[1], m[2])
				}
			}
			_, last, _ := strings.Cut("."+s, ".")
			switch {
			case camel.MatchString(last):
				counted["name"]++
				if !n.declared[last] {
					t.Errorf("%s: nothing declares `%s`", name, s)
				}
			case scenario.MatchString(s):
				counted["scenario"]++
				if _, err := os.Stat("replication/testdata/scenarios/" + s + ".txt"); err != nil {
					t.Errorf("%s: no scenario %s", name, s)
				}
			case name == "SAFETY.md" && snake.MatchString(s):
				counted["script"]++
				if found, _ := filepath.Glob("internal/script/testdata/" + s + "*"); len(found) == 0 && !saidInSources(t, s) {
					t.Errorf("%s: `%s` is neither a script nor a word of the code", name, s)
				}
			}
		}
	}
	for kind, atLeast := range map[string]int{"member": 30, "name": 100, "scenario": 15, "script": 40} {
		if counted[kind] < atLeast {
			t.Errorf("only %d of kind %s were found", counted[kind], kind)
		}
	}
}

// members are the names of a type's methods and fields.
type members map[string]bool

// has follows what is embedded.
func (m members) has(name string, all map[string]members) bool {
	if m[name] {
		return true
	}
	for embedded := range m {
		if all[embedded] != nil && all[embedded][name] {
			return true
		}
	}
	return false
}

// membersOf says for each type what its methods and fields are called; types of one name are taken together.
func membersOf(t *testing.T) map[string]members {
	t.Helper()
	all := map[string]members{}
	add := func(typ, name string) {
		if all[typ] == nil {
			all[typ] = members{}
		}
		all[typ][name] = true
	}
	for _, p := range sources(t) {
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(node ast.Node) bool {
			switch node := node.(type) {
			case *ast.FuncDecl:
				if node.Recv != nil {
					add(typeName(node.Recv.List[0].Type), node.Name.Name)
				}
			case *ast.TypeSpec:
				var fields *ast.FieldList
				switch typ := node.Type.(type) {
				case *ast.StructType:
					fields = typ.Fields
				case *ast.InterfaceType:
					fields = typ.Methods
				default:
					return true
				}
				for _, f := range fields.List {
					for _, name := range f.Names {
						add(node.Name.Name, name.Name)
					}
					if f.Names == nil {
						add(node.Name.Name, typeName(f.Type))
					}
				}
			}
			return true
		})
	}
	return all
}

func typeName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return typeName(e.X)
	case *ast.IndexExpr:
		return typeName(e.X)
	case *ast.SelectorExpr:
		return e.Sel.Name
	case *ast.Ident:
		return e.Name
	}
	return ""
}

// saidInSources reports whether a word stands in some source: a key, a reason for drops, a setting.
func saidInSources(t *testing.T, word string) bool {
	t.Helper()
	return slices.ContainsFunc(sources(t), func(p string) bool { return strings.Contains(read(t, p), word) })
}

var (
	shownCommand = regexp.MustCompile("(?m)\\blockstep [a-z][^`\n]*")
	shownFlag    = regexp.MustCompile(`--([a-z][a-z-]*)`)
	shownMake    = regexp.MustCompile(`(?m)^ {4,}make ([a-z][a-z-]*)`)
	shownTest    = regexp.MustCompile(`-run '?\^?([A-Z]\w*)`)
)

// Options of lockstep, targets of make and tests in the commands that pages show exist, also where a page sets the
// command in lines of its own.
func TestShownCommands(t *testing.T) {
	makefile, said, n := read(t, "Makefile"), literals(t), declarations(t)
	shown := map[string]int{}
	for name, page := range documents(t) {
		for _, line := range shownCommand.FindAllString(strings.ReplaceAll(page, "\\\n", " "), -1) {
			line, _, _ = strings.Cut(line, " #")
			for _, m := range shownFlag.FindAllStringSubmatch(line, -1) {
				if shown["flag"]++; !said[m[1]] && m[1] != "help" {
					t.Errorf("%s shows `%s`, and there is no --%s", name, line, m[1])
				}
			}
		}
		for _, m := range shownMake.FindAllStringSubmatch(page, -1) {
			if shown["target"]++; !strings.Contains(makefile, "\n"+m[1]+":") {
				t.Errorf("%s shows `make %s`, which does not exist", name, m[1])
			}
		}
		for _, m := range shownTest.FindAllStringSubmatch(page, -1) {
			if m[1] == "NAME" {
				continue
			}
			if shown["test"]++; !n.hasTest(m[1]) {
				t.Errorf("%s shows `-run %s`, and no test is called so", name, m[1])
			}
		}
	}
	for kind, atLeast := range map[string]int{"flag": 20, "target": 8, "test": 4} {
		if shown[kind] < atLeast {
			t.Errorf("only %d of kind %s were found", shown[kind], kind)
		}
	}
}

// hasTest reports whether `go test -run part` would run anything.
func (n *names) hasTest(part string) bool {
	for d := range n.declared {
		if testName.MatchString(d) && strings.Contains(d, part) {
			return true
		}
	}
	return false
}

// SAFETY.md names every fuzz target.
func TestFuzzTargetsAreNamed(t *testing.T) {
	page := read(t, "SAFETY.md")
	for name := range declarations(t).declared {
		if strings.HasPrefix(name, "Fuzz") && testName.MatchString(name) && !strings.Contains(page, "`"+name+"`") {
			t.Errorf("SAFETY.md does not name %s", name)
		}
	}
}

// Every lock of the product has its place in ARCHITECTURE's order: by its type and name, or by its name alone if that is
// not just `mu`.
func TestLockOrderIsComplete(t *testing.T) {
	_, order, ok := strings.Cut(read(t, "ARCHITECTURE.md"), "\n## Lock order\n")
	if !ok {
		t.Fatal("no section")
	}
	locks := 0
	eachStruct(t, func(file, typ string, s *ast.StructType) {
		dir := path.Dir(file)
		product := strings.HasPrefix(dir, "appliance") || strings.HasPrefix(dir, "replication") || dir == "stack" || dir == "tun" || dir == "internal/loglimit"
		if !product || dir == "replication/sim" {
			return
		}
		for _, field := range s.Fields.List {
			if kind := typeName(field.Type); kind != "Mutex" && kind != "RWMutex" {
				continue
			}
			for _, name := range field.Names {
				locks++
				full := regexp.MustCompile("`" + regexp.QuoteMeta(typ) + `\.` + name.Name + "`|`mu` of[^.:]*`" + regexp.QuoteMeta(typ) + "`")
				if !full.MatchString(order) && (name.Name == "mu" || !strings.Contains(order, name.Name+"`")) {
					t.Errorf("%s: %s.%s has no place in ARCHITECTURE.md, Lock order", file, typ, name.Name)
				}
			}
		}
	})
	if locks < 30 {
		t.Errorf("only %d locks were found", locks)
	}
}
