package replication

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// pure are the packages in which nothing but their inputs decides, and what each of them
// may use all the same. The shell's lock decides nothing: one caller after the other is a
// run that a single one could have made.
var pure = map[string][]string{
	".":       {"net/netip"},
	"wire":    {"net/netip"},
	"arbiter": nil,
	"roles":   nil,
	"shell":   {"sync"},
}

// TestPure keeps clocks, goroutines, I/O and hidden state out of the core, its wire
// format, the arbiter, the rules of the roles and the shell, and iteration over maps, whose order
// differs from run to run. The arbiter may import raft, whose only hidden input, random
// election time-outs, it never lets count (arbiter.TestEqualInputs).
func TestPure(t *testing.T) {
	ranges := 0
	for dir, allowed := range pure {
		fset := token.NewFileSet()
		paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		var files []*ast.File
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
			for _, imp := range f.Imports {
				name, _ := strconv.Unquote(imp.Path.Value)
				if impure(allowed, name) {
					t.Errorf("%s imports %s", path, name)
				}
			}
		}
		if len(files) == 0 {
			t.Fatalf("%s: no files", dir)
		}
		checkSyntax(t, fset, files)
		ranges += checkMapRanges(t, fset, files)
	}
	if ranges == 0 {
		t.Error("no range statement found: the check looks at nothing")
	}
}

// impure says whether who may use allowed must not import name.
func impure(allowed []string, name string) bool {
	return !slices.Contains(allowed, name) && slices.ContainsFunc([]string{
		"time", "net", "os", "io", "sync", "log", "math/rand", "context", "runtime", "syscall", "unsafe", "reflect",
		"crypto", "testing",
	}, func(bad string) bool { return name == bad || strings.HasPrefix(name, bad+"/") })
}

// The test of the test: what must not be is refused.
func TestImpure(t *testing.T) {
	for _, c := range []struct{ dir, name string }{
		{".", "time"}, {".", "net"}, {"arbiter", "crypto/rand"}, {"roles", "sync"}, {"shell", "sync/atomic"}, {"wire", "math/rand/v2"},
	} {
		if !impure(pure[c.dir], c.name) {
			t.Errorf("%s may import %s", c.dir, c.name)
		}
	}
	if impure(pure["."], "net/netip") || impure(pure["shell"], "sync") || impure(pure["arbiter"], "math/bits") {
		t.Error("what may be imported is refused")
	}
}

func checkSyntax(t *testing.T, fset *token.FileSet, files []*ast.File) {
	for _, f := range files {
		for _, d := range f.Decls {
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.VAR {
				for _, spec := range g.Specs {
					for _, name := range spec.(*ast.ValueSpec).Names {
						if name.Name != "_" { // which keeps nothing: what implements what
							t.Errorf("%s: package-level variable", fset.Position(d.Pos()))
						}
					}
				}
			}
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Name.Name == "init" && fn.Recv == nil {
				t.Errorf("%s: init function", fset.Position(d.Pos()))
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n.(type) {
			case *ast.GoStmt, *ast.ChanType, *ast.SelectStmt, *ast.SendStmt:
				t.Errorf("%s: %T", fset.Position(n.Pos()), n)
			}
			return true
		})
	}
}

// checkMapRanges needs types to tell a map from a slice. What cannot be resolved
// (an import's internals) does not matter for that.
func checkMapRanges(t *testing.T, fset *token.FileSet, files []*ast.File) (ranges int) {
	info := &types.Info{Types: make(map[ast.Expr]types.TypeAndValue)}
	conf := types.Config{Importer: importer.ForCompiler(fset, "source", nil), Error: func(error) {}}
	_, _ = conf.Check("lockstep/replication", fset, files, info)
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			r, ok := n.(*ast.RangeStmt)
			if !ok {
				return true
			}
			ranges++
			tv, known := info.Types[r.X]
			if !known || tv.Type == nil {
				t.Errorf("%s: type of the range is not known", fset.Position(n.Pos()))
				return true
			}
			if _, isMap := tv.Type.Underlying().(*types.Map); isMap {
				t.Errorf("%s: range over a map", fset.Position(n.Pos()))
			}
			return true
		})
	}
	return ranges
}
