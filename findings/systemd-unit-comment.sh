#!/usr/bin/env bash
# What does Go's systemd library make of a comment within a line that goes on?
# Version: github.com/coreos/go-systemd/v22 v22.7.0, package unit. Format: systemd.syntax(7): a line that ends in a backslash goes on, and
#       comment lines after it are left out.
# Guess: the command is read whole, as systemd reads it.
# Seen: it ends at the comment, which becomes a part of it. If what follows has an equals sign (--listen=1), that becomes a setting of the
#       unit, without an error; else reading fails.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"fmt"
	"strings"

	"github.com/coreos/go-systemd/v22/unit"
)

func main() {
	for _, text := range []string{
		"[Service]\nExecStart=/bin/a \\\n  --listen=1\nRestart=no\n",
		"[Service]\nExecStart=/bin/a \\\n# where\n  --listen=1\nRestart=no\n",
		"[Service]\nExecStart=/bin/a \\\n# loudly\n  -v\nRestart=no\n",
	} {
		options, err := unit.Deserialize(strings.NewReader(text))
		fmt.Printf("%q:", text)
		for _, o := range options {
			fmt.Printf(" <%s> is %q", o.Name, o.Value)
		}
		fmt.Println(" error:", err)
	}
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/coreos/go-systemd/v22/unit@v22.7.0 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want='"[Service]\nExecStart=/bin/a \\\n  --listen=1\nRestart=no\n": <ExecStart> is "/bin/a \\\n  --listen=1" <Restart> is "no" error: <nil>
"[Service]\nExecStart=/bin/a \\\n# where\n  --listen=1\nRestart=no\n": <ExecStart> is "/bin/a \\\n# where" <--listen> is "1" <Restart> is "no" error: <nil>
"[Service]\nExecStart=/bin/a \\\n# loudly\n  -v\nRestart=no\n": <ExecStart> is "/bin/a \\\n# loudly" error: unexpected newline encountered while parsing option name'
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
