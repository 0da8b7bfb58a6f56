package lockstep_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// declarations looks through all sources, whatever their build tags.
func declarations(t *testing.T) *names {
	t.Helper()
	n := &names{declared: map[string]bool{}, funcs: map[string]map[string]bool{}}
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n.files = append(n.files, filepath.ToSlash(p))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range sources(t) {
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		in := map[string]bool{}
		ast.Inspect(f, func(node ast.Node) bool {
			switch node := node.(type) {
			case *ast.FuncDecl:
				in[node.Name.Name] = true
			case *ast.TypeSpec:
				in[node.Name.Name] = true
			case *ast.ValueSpec:
				for _, name := range node.Names {
					in[name.Name] = true
				}
			case *ast.Field:
				for _, name := range node.Names {
					in[name.Name] = true
				}
			}
			return true
		})
		n.funcs[filepath.ToSlash(p)] = in
		for name := range in {
			n.declared[name] = true
		}
	}
	return n
}

// declaredIn says whether a file of that name, in any folder, declares name.
func (n *names) declaredIn(file, name string) bool {
	for f, in := range n.funcs {
		if (f == file || strings.HasSuffix(f, "/"+file)) && in[name] {
			return true
		}
	}
	return false
}
