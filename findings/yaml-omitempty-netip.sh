#!/usr/bin/env bash
# Does omitempty leave out an address that is set?
# Version: go.yaml.in/yaml/v3 v3.0.5 (Go's net/netip).
# Guess: a value that writes itself as text (encoding.TextMarshaler) is left out if that text is empty, or if it is the zero value.
# Seen: netip.Addr, AddrPort and Prefix are structs whose fields are all private. Such a struct always counts as zero: with omitempty
#       each is left out although it is set, without an error. Without omitempty, and behind a pointer, it is written.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"fmt"
	"net/netip"

	"go.yaml.in/yaml/v3"
)

func show(name string, v any) {
	b, err := yaml.Marshal(v)
	if err != nil {
		panic(err)
	}
	fmt.Printf("%s: %s\n", name, b[:len(b)-1])
}

func main() {
	addr, port, prefix := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddrPort("192.0.2.1:80"), netip.MustParsePrefix("192.0.2.0/24")
	show("address", struct {
		V netip.Addr `yaml:"v,omitempty"`
	}{addr})
	show("address and port", struct {
		V netip.AddrPort `yaml:"v,omitempty"`
	}{port})
	show("prefix", struct {
		V netip.Prefix `yaml:"v,omitempty"`
	}{prefix})
	show("pointer", struct {
		V *netip.AddrPort `yaml:"v,omitempty"`
	}{&port})
	show("without omitempty", struct {
		V netip.AddrPort `yaml:"v"`
	}{port})
}
GO
{ go mod init finding && go get go.yaml.in/yaml/v3@v3.0.5; } >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
go run . >seen
cat seen
diff seen - <<'OUT' && echo "as seen" || { echo "CHANGED"; exit 1; }
address: {}
address and port: {}
prefix: {}
pointer: v: 192.0.2.1:80
without omitempty: v: 192.0.2.1:80
OUT
