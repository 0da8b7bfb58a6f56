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

// forbidden says what a folder must know nothing of.
var forbidden = map[string][]string{
	"tun":                   {"lockstep/stack", "lockstep/replication", "lockstep/appliance"},
	"stack":                 {"lockstep/replication", "lockstep/appliance"},
	"replication":           {"lockstep/stack", "lockstep/tun", "lockstep/appliance", "time", "net", "os", "sync", "log", "log/slog", "math/rand", "math/rand/v2", "context"},
	"replication/wire":      {"lockstep/stack", "lockstep/tun", "lockstep/appliance", "time", "net", "os", "sync", "log", "log/slog", "context"},
	"replication/arbiter":   {"lockstep/stack", "lockstep/tun", "lockstep/appliance", "lockstep/replication/link", "lockstep/replication/wire", "time", "net", "os", "sync", "log", "log/slog", "context"},
	"replication/roles":     {"lockstep/stack", "lockstep/tun", "lockstep/appliance", "lockstep/appliance/voter", "lockstep/replication/link", "lockstep/replication/courier", "time", "net", "os", "sync", "log", "log/slog", "context"},
	"replication/link":      {"lockstep/stack", "lockstep/tun", "lockstep/appliance"},
	"replication/identity":  {"lockstep/stack", "lockstep/tun", "lockstep/appliance", "lockstep/replication", "lockstep/replication/wire", "net"},
	"replication/transport": {"lockstep/stack", "lockstep/tun", "lockstep/appliance", "lockstep/replication", "lockstep/replication/link"},
	"replication/courier":   {"lockstep/stack", "lockstep/tun", "lockstep/appliance", "lockstep/replication", "lockstep/replication/link", "lockstep/replication/arbiter"},
	"appliance/adapter":     {"lockstep/stack", "lockstep/tun", "lockstep/replication", "lockstep/appliance", "lockstep/appliance/config", "lockstep/appliance/relay", "time", "net", "net/http", "os", "sync", "sync/atomic", "log", "log/slog", "context", "math/rand/v2"},
	"appliance/health":      {"lockstep/stack", "lockstep/tun", "lockstep/replication", "lockstep/appliance", "lockstep/appliance/relay", "lockstep/appliance/adapter", "log", "log/slog"},
	"appliance/relay":       {"lockstep/tun", "lockstep/appliance/config", "lockstep/replication/link"},
	"appliance/config":      {"lockstep/stack", "lockstep/tun", "lockstep/replication/link", "lockstep/replication/identity", "lockstep/replication/transport"},
	"appliance/control":     {"lockstep/stack", "lockstep/tun", "lockstep/replication"},
	"appliance/statefile":   {"lockstep/replication", "lockstep/replication/arbiter", "lockstep/appliance/voter"},
	"appliance/voter":       {"lockstep/stack", "lockstep/tun", "lockstep/appliance", "lockstep/appliance/config", "lockstep/appliance/relay", "lockstep/replication/link"},
	"appliance/witness":     {"lockstep/stack", "lockstep/tun", "lockstep/appliance", "lockstep/appliance/relay", "lockstep/replication/link"},
	"images/debian":         {"lockstep/images/kmod", "lockstep/images/disk", "lockstep/appliance"},
	"images/kmod":           {"os", "lockstep/images/debian", "lockstep/images/machine", "lockstep/appliance"},
	"images/initrd":         {"os", "lockstep/images/kmod", "lockstep/appliance"},
	"images/uki":            {"os", "lockstep/images/initrd", "lockstep/appliance"},
	"images/volume":         {"lockstep/images/settings", "lockstep/images/machine", "lockstep/appliance", "lockstep/appliance/config"},
	"images/settings":       {"os", "lockstep/images/machine", "lockstep/appliance", "lockstep/appliance/config"},
	"images/provision":      {"lockstep/images/machine", "lockstep/appliance"},
	"images/machine":        {"lockstep/appliance", "lockstep/stack", "lockstep/tun", "lockstep/replication"},
	"internal/vm":           {"lockstep/appliance", "lockstep/stack", "lockstep/replication", "lockstep/images/machine", "lockstep/internal/lab"},
	"internal/storm":        {"lockstep/stack", "lockstep/replication", "lockstep/tun"},
	"internal/lab":          {"lockstep/appliance", "lockstep/stack", "lockstep/replication"},
	"internal/lab/traffic":  {"lockstep/appliance", "lockstep/stack", "lockstep/replication"},
}

func TestForbiddenImports(t *testing.T) {
	for _, path := range sources(t) {
		bans := forbidden[filepath.ToSlash(filepath.Dir(path))]
		if bans == nil || strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if imp, ok := n.(*ast.ImportSpec); ok {
				if name := strings.Trim(imp.Path.Value, `"`); slices.Contains(bans, name) {
					t.Errorf("%s imports %s, which its package must know nothing of", path, name)
				}
			}
			return true
		})
	}
}
