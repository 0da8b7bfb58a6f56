#!/usr/bin/env bash
# Are the structured data of a syslog message found, if a value has a quote in it or an element no values?
# Versions: npm's nsyslog-parser 0.10.1, glossy 0.1.7; github.com/leodido/go-syslog/v4 v4.6.0. Format: RFC 5424 section 6.3:
#       any number of [ID NAME="VALUE" ...], in a value \" \\ and \] are escaped.
# Guess: by all three: the RFC defines both, and the parsers announce it.
# Seen: nsyslog-parser finds none where a value has an escaped quote: all of it becomes the message. An element without values becomes
#       part of the message, less its first bracket; glossy leaves it out, and only go-syslog gives it.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
npm install --ignore-scripts --no-audit --no-fund nsyslog-parser@0.10.1 glossy@0.1.7 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
cat >lines <<'L'
<34>1 2003-10-11T22:14:15.003Z host app 12 ID1 [a@1 x="y"] hello
<34>1 2003-10-11T22:14:15.003Z host app 12 ID1 [a@1 x="say \"y\""] hello
<34>1 2003-10-11T22:14:15.003Z host app 12 ID1 [a@1 x="y"][b@2] hello
L
cat >main.js <<'JS'
const nsyslog = require('nsyslog-parser'), glossy = require('glossy').Parse;
for (const line of require('fs').readFileSync('lines', 'utf8').trim().split('\n')) {
  const n = nsyslog(line);
  console.log('nsyslog-parser', JSON.stringify(n.structuredData), JSON.stringify(n.message));
  glossy.parse(line, g => console.log('glossy', JSON.stringify(g.structuredData), JSON.stringify(g.message)));
}
JS
cat >main.go <<'GO'
package main

import (
	"bufio"
	"fmt"
	"os"

	"github.com/leodido/go-syslog/v4/rfc5424"
)

func main() {
	f, err := os.Open("lines")
	if err != nil {
		panic(err)
	}
	for s := bufio.NewScanner(f); s.Scan(); {
		m, err := rfc5424.NewParser().Parse(s.Bytes())
		if err != nil {
			panic(err)
		}
		r := m.(*rfc5424.SyslogMessage)
		fmt.Printf("go-syslog %q %q\n", *r.StructuredData, *r.Message)
	}
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/leodido/go-syslog/v4/rfc5424@v4.6.0 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(node main.js && go run .)
want='nsyslog-parser [{"$id":"a@1","x":"y"}] "hello"
glossy {"a@1":{"x":"y"}} "hello"
nsyslog-parser [] "[a@1 x=\"say \\\"y\\\"\"] hello"
glossy {"a@1":{"x":"say \"y\""}} "hello"
nsyslog-parser [{"$id":"a@1","x":"y"}] "b@2] hello"
glossy {"a@1":{"x":"y"}} "hello"
go-syslog map["a@1":map["x":"y"]] "hello"
go-syslog map["a@1":map["x":"say \"y\""]] "hello"
go-syslog map["a@1":map["x":"y"] "b@2":map[]] "hello"'
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
