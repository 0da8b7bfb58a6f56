#!/usr/bin/env bash
# Is a directory's entry the same after a way through LDIF?
# Version: github.com/go-ldap/ldif of 2025-09-10. Format: RFC 2849: a value that begins with a space, a colon or "<", or has other than ASCII, is
#       written in base64 (SAFE-STRING, note 4).
# Guess: every value comes back as it was.
# Seen: colons, "<", spaces at the end, line ends, NUL and UTF-8 do. Of a value, or a DN, that begins with a space it is written as it is,
#       and the reader takes the space for the one behind the colon: it is lost, without an error.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"fmt"

	ldap "github.com/go-ldap/ldap/v3"
	"github.com/go-ldap/ldif"
)

func main() {
	for _, v := range []string{"plain", "at the end ", ":colon", "<less", "two\nlines", "\x00", "Zürich", " at the beginning"} {
		entry := &ldap.Entry{DN: "cn=x,dc=example", Attributes: []*ldap.EntryAttribute{{Name: "description", Values: []string{v}}}}
		text, err := ldif.Marshal(&ldif.LDIF{Entries: []*ldif.Entry{{Entry: entry}}})
		if err != nil {
			panic(err)
		}
		back, err := ldif.Parse(text)
		if err != nil {
			panic(err)
		}
		got := back.Entries[0].Entry.GetAttributeValue("description")
		fmt.Printf("%q: the same %v", v, got == v)
		if got != v {
			fmt.Printf(", read as %q", got)
		}
		fmt.Println()
	}
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/go-ldap/ldif@v0.0.0-20250910174327-aa3bc3095c92 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
go mod tidy >/dev/null 2>&1
got=$(go run .)
want='"plain": the same true
"at the end ": the same true
":colon": the same true
"<less": the same true
"two\nlines": the same true
"\x00": the same true
"Zürich": the same true
" at the beginning": the same false, read as "at the beginning"'
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
