// Package lockstep_test holds the rules of the house that a machine can check.
package lockstep_test

import (
	"bytes"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const maxLines = 650 // of a file; 500 is the aim for code, tests may be longer

// sources returns every Go file of the module.
func sources(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".go") {
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestFormattedAndShort(t *testing.T) {
	for _, path := range sources(t) {
		src, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := format.Source(src); err != nil || !bytes.Equal(src, out) {
			t.Errorf("%s is not gofmt'ed (%v)", path, err)
		}
		limit := maxLines
		if !strings.HasSuffix(path, "_test.go") {
			limit = 500
		}
		if n := bytes.Count(src, []byte("\n")); n > limit {
			t.Errorf("%s has %d lines, more than %d: would two files be easier to live in?", path, n, limit)
		}
	}
}

// Every package says once what it owns.
func TestPackageComments(t *testing.T) {
	docs := map[string]int{}
	for _, path := range sources(t) {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		dir := filepath.Dir(path)
		docs[dir] += 0
		if f.Doc != nil {
			docs[dir]++
		}
	}
	for dir, n := range docs {
		if n != 1 {
			t.Errorf("package in %s has %d package comments, want one", dir, n)
		}
	}
}

// A package comment that says what each file has says it of every file, and of no other.
func TestFileLists(t *testing.T) {
	line := regexp.MustCompile(`(?m)^\t(\w+\.go)\s`)
	files, listed, in := map[string][]string{}, map[string][]string{}, map[string]string{}
	for _, path := range sources(t) {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Dir(path)
		files[dir] = append(files[dir], filepath.Base(path))
		for _, m := range line.FindAllStringSubmatch(f.Doc.Text(), -1) {
			listed[dir], in[dir] = append(listed[dir], m[1]), filepath.Base(path)
		}
	}
	for dir, names := range listed {
		want := files[dir]
		if !slices.Contains(names, in[dir]) { // the one with the list
			want = slices.DeleteFunc(want, func(name string) bool { return name == in[dir] })
		}
		slices.Sort(names)
		if slices.Sort(want); !slices.Equal(names, want) {
			t.Errorf("%s lists %v, the package has %v", filepath.Join(dir, in[dir]), names, want)
		}
	}
}

// What is too long to be read at once: lines of a function, fields of a struct.
const (
	maxFunction     = 70
	maxTestFunction = 100 // with its table
	maxFields       = 20
)

func TestFunctionsAreShort(t *testing.T) {
	for _, path := range sources(t) {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		limit := maxFunction
		if strings.HasSuffix(path, "_test.go") {
			limit = maxTestFunction
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1
			if n > limit {
				t.Errorf("%s: %s has %d lines, more than %d: which steps does it have?", path, fn.Name.Name, n, limit)
			}
		}
	}
}

// TestStructsAreGrouped: what has many fields says in groups, structs of their own, what guards
// which. A record, all of whose fields are exported, is copied, and guarded by nothing.
func TestStructsAreGrouped(t *testing.T) {
	eachStruct(t, func(path, name string, s *ast.StructType) {
		fields, hidden := 0, false
		for _, field := range s.Fields.List {
			fields += max(1, len(field.Names)) // embedded: one
			for _, name := range field.Names {
				hidden = hidden || !name.IsExported()
			}
		}
		if fields > maxFields && hidden {
			t.Errorf("%s: %s has %d fields, more than %d: what guards which of them?", path, name, fields, maxFields)
		}
	})
}

// eachStruct goes through the structs that are declared, tests left out.
func eachStruct(t *testing.T, f func(path, name string, s *ast.StructType)) {
	t.Helper()
	for _, path := range sources(t) {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok {
				if s, ok := spec.Type.(*ast.StructType); ok {
					f(filepath.ToSlash(path), spec.Name.Name, s)
				}
			}
			return true
		})
	}
}
