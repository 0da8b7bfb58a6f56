#!/usr/bin/env bash
# What does a collector see of a parameter that a syslog message has twice?
# Version: github.com/leodido/go-syslog/v4 v4.6.0. Format: RFC 5424: "The same SD-PARAM may exist more than once in an SD-ELEMENT" (section 6.3.3);
#       of origin's "ip" there may be one for each address (section 7.2.1).
# Guess: both values, or an error.
# Seen: the last one only: an element is a map. Written again, the message is another one. The reader is content, and says nothing.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"fmt"

	"github.com/leodido/go-syslog/v4/rfc5424"
)

func main() {
	for _, sd := range []string{`[origin ip="192.0.2.1" software="a"]`, `[origin ip="192.0.2.1" ip="192.0.2.129"]`} {
		in := `<34>1 2026-01-02T03:04:05.006Z host app 1 ID ` + sd + ` text`
		m, err := rfc5424.NewParser().Parse([]byte(in))
		if err != nil {
			panic(err)
		}
		s := m.(*rfc5424.SyslogMessage)
		out, err := s.String()
		fmt.Println(sd, "is read as", *s.StructuredData, "and written the same:", out == in, err)
	}
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/leodido/go-syslog/v4@v4.6.0 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want='[origin ip="192.0.2.1" software="a"] is read as map[origin:map[ip:192.0.2.1 software:a]] and written the same: true <nil>
[origin ip="192.0.2.1" ip="192.0.2.129"] is read as map[origin:map[ip:192.0.2.129]] and written the same: false <nil>'
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
