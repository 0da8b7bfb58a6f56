package lockstep_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// coming are folders, and names in one, whose users are being written.
var coming = map[string]bool{
	"splice Switch.Gate":     true,
	"splice Switch.Told":     true,
	"splice Switch.Return":   true,
	"splice Switch.ToldBack": true,
	"splice Switch.Leave":    true,
}

// TestExportedNamesAreUsed: what a package exports somebody outside of it uses, be it a test in a
// package of its own. Left out is what is used without its name: methods by which a type satisfies
// an interface, and types that have them; types of which an exported name is made; fields, which
// encodings read. A block of constants is whole, and so are the constants of an exported type.
func TestExportedNamesAreUsed(t *testing.T) {
	m := loadModule(t)
	if unused := m.unused(); len(unused) > 0 {
		t.Errorf("exported, and nobody outside uses it: begin it with a small letter, remove it, or say that its user is coming\n%s", strings.Join(unused, "\n"))
	}
	for name := range coming {
		if !m.awaited[name] {
			t.Errorf("%s is used now: take it off the list", name)
		}
	}
	if len(m.used) < 1000 {
		t.Errorf("only %d uses of a name of another package were found", len(m.used))
	}
}

// listed is what `go list` says of a package.
type listed struct {
	ImportPath, Dir, Export            string
	GoFiles, TestGoFiles, XTestGoFiles []string
	Module                             *struct{ Path string }
}

// typed is the whole module with its types.
type typed struct {
	fset       *token.FileSet
	listed     map[string]*listed
	libraries  types.Importer
	files      map[string]*ast.File
	packages   map[string]*types.Package // of this module
	used       map[token.Pos]bool        // declarations that another package uses
	declared   []types.Type
	reached    map[*types.TypeName]bool      // by an interface
	awaited    map[string]bool               // of coming
	interfaces map[string][]*types.Interface // by the name of a method
}

// loadModule checks all packages of the module and their tests; libraries come from the
// compiler's own files, as they do in a build.
func loadModule(t *testing.T) *typed {
	t.Helper()
	m := &typed{
		fset: token.NewFileSet(), listed: map[string]*listed{}, files: map[string]*ast.File{}, packages: map[string]*types.Package{},
		used: map[token.Pos]bool{}, interfaces: map[string][]*types.Interface{}, reached: map[*types.TypeName]bool{},
		awaited: map[string]bool{},
	}
	m.list(t, "-deps", "-test", "./...")
	libraries := []string{"-export", "--"}
	for name, p := range m.listed {
		if p.Module == nil || p.Module.Path != module {
			libraries = append(libraries, name)
		}
	}
	m.list(t, libraries...) // of this module's nothing has to be compiled
	m.libraries = importer.ForCompiler(m.fset, "gc", func(name string) (io.ReadCloser, error) { return os.Open(m.listed[name].Export) })
	for _, name := range append(m.own(), "encoding") {
		if _, err := m.Import(name); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range m.own() {
		m.checkTests(name)
	}
	m.collect(types.Universe)
	m.blocks()
	for _, t := range m.declared {
		m.satisfying(t)
	}
	return m
}

// list asks the go command.
func (m *typed) list(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,Export,GoFiles,TestGoFiles,XTestGoFiles,Module"}, args...)...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		p := new(listed)
		if err := d.Decode(p); err != nil {
			t.Fatal(err)
		}
		m.listed[p.ImportPath] = p
	}
}

// own are the packages of this module, without their tests.
func (m *typed) own() (names []string) {
	for name, p := range m.listed {
		if p.Module != nil && p.Module.Path == module && !strings.ContainsAny(name, " ") && !strings.HasSuffix(name, ".test") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Import implements types.Importer: this module's packages from their sources.
func (m *typed) Import(name string) (*types.Package, error) {
	if name != module && !strings.HasPrefix(name, module+"/") {
		p, err := m.libraries.Import(name)
		if err == nil {
			m.collect(p.Scope())
		}
		return p, err
	}
	if p := m.packages[name]; p != nil {
		return p, nil
	}
	p, err := m.check(name, m, name, m.listed[name].GoFiles)
	if err != nil {
		return nil, err
	}
	m.packages[name] = p
	m.collect(p.Scope())
	return p, nil
}

// check checks files of a folder as one package, and notes what they use of others.
func (m *typed) check(folder string, imports types.Importer, name string, files ...[]string) (*types.Package, error) {
	var parsed []*ast.File
	for _, file := range slices.Concat(files...) {
		f, err := m.parse(filepath.Join(m.listed[folder].Dir, file))
		if err != nil {
			return nil, err
		}
		parsed = append(parsed, f)
	}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}, Defs: map[*ast.Ident]types.Object{}}
	conf := types.Config{Importer: imports, Error: func(error) {}}
	p, err := conf.Check(name, m.fset, parsed, info)
	for _, obj := range info.Uses {
		if obj.Pkg() != nil && obj.Pkg().Path() != name {
			m.used[origin(obj).Pos()] = true
		}
	}
	for _, obj := range info.Defs {
		if tn, ok := obj.(*types.TypeName); ok && !tn.IsAlias() {
			m.declared = append(m.declared, tn.Type())
		}
	}
	return p, err
}

// origin is of what an instance of something generic was made.
func origin(obj types.Object) types.Object {
	switch o := obj.(type) {
	case *types.Func:
		return o.Origin()
	case *types.Var:
		return o.Origin()
	}
	return obj
}

// parse parses a file once, so that a declaration has one position whoever sees it.
func (m *typed) parse(path string) (*ast.File, error) {
	if f := m.files[path]; f != nil {
		return f, nil
	}
	f, err := parser.ParseFile(m.fset, path, nil, parser.SkipObjectResolution)
	m.files[path] = f
	return f, err
}

// checkTests notes what a folder's tests use of other packages. Those in a package of their own see
// the folder's with what its other tests add; where that is another type than the rest of the module
// has, the check of the types fails, and what is used is noted all the same.
func (m *typed) checkTests(name string) {
	p := m.listed[name]
	with := m.packages[name]
	if len(p.TestGoFiles) > 0 {
		with, _ = m.check(name, m, name, p.GoFiles, p.TestGoFiles)
	}
	if len(p.XTestGoFiles) > 0 {
		_, _ = m.check(name, importing{m, with}, name+"_test", p.XTestGoFiles)
	}
}

// importing has one package in another form.
type importing struct {
	*typed
	p *types.Package
}

func (i importing) Import(name string) (*types.Package, error) {
	if name == i.p.Path() {
		return i.p, nil
	}
	return i.typed.Import(name)
}

// collect keeps the interfaces of a scope.
func (m *typed) collect(scope *types.Scope) {
	for _, name := range scope.Names() {
		tn, ok := scope.Lookup(name).(*types.TypeName)
		if !ok {
			continue
		}
		if in, ok := tn.Type().Underlying().(*types.Interface); ok {
			for i := range in.NumMethods() {
				m.interfaces[in.Method(i).Name()] = append(m.interfaces[in.Method(i).Name()], in)
			}
		}
	}
}

// unused are the exported names that only their own package uses.
func (m *typed) unused() (all []string) {
	for _, name := range m.own() {
		p := m.packages[name]
		if p.Name() == "main" {
			continue
		}
		parts := m.parts(p)
		folder := strings.TrimPrefix(name, module+"/")
		say := func(obj types.Object, what string) {
			for _, key := range []string{folder, folder + " " + what} {
				if coming[key] {
					m.awaited[key] = true
					return
				}
			}
			at := m.fset.Position(obj.Pos())
			all = append(all, fmt.Sprintf("%s/%s:%d: %s", folder, filepath.Base(at.Filename), at.Line, what))
		}
		for _, n := range p.Scope().Names() {
			obj := p.Scope().Lookup(n)
			tn, isType := obj.(*types.TypeName)
			if obj.Exported() && !m.used[obj.Pos()] && !(isType && (parts[tn] || m.reached[tn])) && !valueOf(obj) {
				say(obj, n)
			}
			if !isType {
				continue
			}
			named, ok := tn.Type().(*types.Named)
			if !ok {
				continue
			}
			for i := range named.NumMethods() {
				if f := named.Method(i); f.Exported() && f.Name() != "Unwrap" && !m.used[f.Pos()] {
					say(f, n+"."+f.Name())
				}
			}
		}
	}
	return all
}

// parts are the types of which the exported names of a package are made.
func (m *typed) parts(p *types.Package) map[*types.TypeName]bool {
	parts := map[*types.TypeName]bool{}
	for _, name := range p.Scope().Names() {
		obj := p.Scope().Lookup(name)
		tn, isType := obj.(*types.TypeName)
		if !isType {
			if obj.Exported() {
				named(obj.Type(), parts)
			}
			continue
		}
		if named1, ok := tn.Type().(*types.Named); ok {
			for i := range named1.NumMethods() {
				if f := named1.Method(i); f.Exported() {
					named(f.Type(), parts)
				}
			}
		}
		named(tn.Type().Underlying(), parts)
	}
	return parts
}

// named adds the named types that t is written with.
func named(t types.Type, to map[*types.TypeName]bool) {
	switch t := t.(type) {
	case *types.Named:
		to[t.Obj()] = true
		for a := range t.TypeArgs().Types() {
			named(a, to)
		}
	case *types.Alias:
		to[t.Obj()] = true
	case *types.Pointer:
		named(t.Elem(), to)
	case *types.Slice:
		named(t.Elem(), to)
	case *types.Array:
		named(t.Elem(), to)
	case *types.Chan:
		named(t.Elem(), to)
	case *types.Map:
		named(t.Key(), to)
		named(t.Elem(), to)
	case *types.Signature:
		for v := range t.Params().Variables() {
			named(v.Type(), to)
		}
		for v := range t.Results().Variables() {
			named(v.Type(), to)
		}
	case *types.Struct:
		for f := range t.Fields() {
			if f.Exported() || f.Embedded() {
				named(f.Type(), to)
			}
		}
	case *types.Interface:
		for f := range t.Methods() {
			named(f.Type(), to)
		}
	}
}

// satisfying notes the methods by which a type satisfies an interface: its own, and those of what
// it embeds.
func (m *typed) satisfying(t types.Type) {
	if types.IsInterface(t) {
		return
	}
	methods := types.NewMethodSet(types.NewPointer(t))
	for s := range methods.Methods() {
		f := s.Obj().(*types.Func)
		if m.used[f.Pos()] || !f.Exported() {
			continue
		}
		for _, in := range m.interfaces[f.Name()] {
			if types.Implements(types.NewPointer(t), in) {
				m.used[f.Pos()] = true
				if n, ok := t.(*types.Named); ok {
					m.reached[n.Obj()] = true
				}
				break
			}
		}
	}
}

// blocks notes the constants of which another one of the same block is used.
func (m *typed) blocks() {
	for _, f := range m.files {
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			var all []token.Pos
			some := false
			for _, spec := range g.Specs {
				for _, name := range spec.(*ast.ValueSpec).Names {
					all = append(all, name.Pos())
					some = some || m.used[name.Pos()]
				}
			}
			for _, pos := range all {
				m.used[pos] = m.used[pos] || some
			}
		}
	}
}

// valueOf: a constant of an exported type of its package.
func valueOf(obj types.Object) bool {
	c, ok := obj.(*types.Const)
	if !ok {
		return false
	}
	n, ok := c.Type().(*types.Named)
	return ok && n.Obj().Pkg() == c.Pkg() && n.Obj().Exported()
}
