package lockstep_test

import (
	"encoding/binary"
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// constants evaluates expressions over the constants of this module's packages. Only
// declarations are looked at, and of other modules nothing, so it takes no time.
type constants struct {
	fset     *token.FileSet
	std      map[string]*types.Package
	packages map[string]*types.Package // by folder
}

func newConstants() *constants {
	return &constants{token.NewFileSet(), standard(), map[string]*types.Package{}}
}

// standard is what constants are made of in the standard library; to look through its sources
// would take longer than all else.
func standard() map[string]*types.Package {
	tm := types.NewPackage("time", "time")
	duration := types.NewNamed(types.NewTypeName(token.NoPos, tm, "Duration", nil), types.Typ[types.Int64], nil)
	tm.Scope().Insert(duration.Obj())
	for name, d := range map[string]time.Duration{
		"Nanosecond": time.Nanosecond, "Microsecond": time.Microsecond, "Millisecond": time.Millisecond,
		"Second": time.Second, "Minute": time.Minute, "Hour": time.Hour,
	} {
		tm.Scope().Insert(types.NewConst(token.NoPos, tm, name, duration, constant.MakeInt64(int64(d))))
	}
	bin := types.NewPackage("encoding/binary", "binary")
	bin.Scope().Insert(types.NewConst(token.NoPos, bin, "MaxVarintLen64", types.Typ[types.UntypedInt], constant.MakeInt64(binary.MaxVarintLen64)))
	for _, p := range []*types.Package{tm, bin} {
		p.MarkComplete()
	}
	return map[string]*types.Package{"time": tm, "encoding/binary": bin}
}

// Import implements types.Importer.
func (c *constants) Import(name string) (*types.Package, error) {
	if dir, ok := strings.CutPrefix(name, module+"/"); ok {
		return c.load(dir)
	}
	if p := c.std[name]; p != nil {
		return p, nil
	}
	p := types.NewPackage(name, filepath.Base(name))
	p.MarkComplete()
	return p, nil
}

func (c *constants) load(dir string) (*types.Package, error) {
	if p := c.packages[dir]; p != nil {
		return p, nil
	}
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	var files []*ast.File
	for _, p := range paths {
		if strings.HasSuffix(p, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(c.fset, p, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no Go files in %q", dir)
	}
	conf := types.Config{Importer: c, IgnoreFuncBodies: true, Error: func(error) {}} // of other modules nothing is known
	p, _ := conf.Check(module+"/"+dir, c.fset, files, nil)
	c.packages[dir] = p
	return p, nil
}

// holds evaluates "folder: expression", which must be true.
func (c *constants) holds(t *testing.T, claim string) bool {
	t.Helper()
	dir, expr, ok := strings.Cut(claim, ": ")
	if !ok {
		t.Fatalf("%q is not folder: expression", claim)
	}
	p, err := c.load(dir)
	if err != nil {
		t.Errorf("%s: %v", claim, err)
		return false
	}
	// Units that an expression may use whether or not the package imports time.
	scope := types.NewPackage("facts", "facts")
	scope.Scope().Insert(types.NewPkgName(token.NoPos, scope, "time", c.std["time"]))
	for _, name := range p.Scope().Names() {
		if k, ok := p.Scope().Lookup(name).(*types.Const); ok {
			scope.Scope().Insert(types.NewConst(token.NoPos, scope, name, k.Type(), k.Val()))
		}
	}
	v, err := types.Eval(c.fset, scope, token.NoPos, expr)
	if err != nil {
		t.Errorf("%s: %v", claim, err)
		return false
	}
	return v.Value != nil && v.Value.Kind() == constant.Bool && constant.BoolVal(v.Value)
}
