package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// filterModules are the kernel's modules that have the parts of rules which tun puts into the
// packet filter; empty: nf_tables itself (nft_basic_types of net/netfilter/nf_tables_core.c,
// Linux 6.2 and later). For whatever else the kernel would load a module when the first such
// rule comes, which the image forbids.
var filterModules = map[string]string{
	"Bitwise": "", "Cmp": "", "Dynset": "", "Lookup": "", "Meta": "", "Objref": "", "Payload": "", "Verdict": "",
	"Fib": "nft_fib_inet", "Limit": "nft_limit",
}

// Every part of a rule has its module in the image.
func TestModulesOfPacketFilter(t *testing.T) {
	files, err := filepath.Glob("../../tun/*.go")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if lit, ok := n.(*ast.CompositeLit); ok {
				if sel, ok := lit.Type.(*ast.SelectorExpr); ok {
					if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "expr" {
						used[sel.Sel.Name] = true
					}
				}
			}
			return true
		})
	}
	if len(used) < len(filterModules) {
		t.Errorf("found only %v", used)
	}
	for name := range used {
		module, known := filterModules[name]
		if !known {
			t.Errorf("which module has the packet filter's %s?", name)
		}
		if module != "" && !slices.Contains(always, module) {
			t.Errorf("the packet filter needs %s, which is not in the image", module)
		}
	}
}
