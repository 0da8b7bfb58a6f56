#!/usr/bin/env bash
# Which autonomous system is in a route target or a route distinguisher that is read from text?
# Version: github.com/osrg/gobgp/v4 v4.8.0, package pkg/packet/bgp. Format: RFC 4360, RFC 5668 (AS of four octets), RFC 4364.
# Guess: "100000:100" becomes the form for an AS of four octets, or an error.
# Seen: neither. The AS is cut to 65535, the largest of two octets, without an error: 100000:100 and 200000:100 become the same target
#       and the same distinguisher. Only the dotted text (1.34464:100) gives four octets. A large community keeps such an AS.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"fmt"

	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

func main() {
	for _, text := range []string{"65000:100", "100000:100", "200000:100", "1.34464:100"} {
		rt, err := bgp.ParseRouteTarget(text)
		if err != nil {
			panic(err)
		}
		rtBytes, err := rt.Serialize()
		if err != nil {
			panic(err)
		}
		rd, err := bgp.ParseRouteDistinguisher(text)
		if err != nil {
			panic(err)
		}
		rdBytes, err := rd.Serialize()
		if err != nil {
			panic(err)
		}
		fmt.Printf("%s: target %s (% x), distinguisher %s (% x)\n", text, rt, rtBytes, rd, rdBytes)
	}
	large, err := bgp.ParseLargeCommunity("100000:1:2")
	fmt.Println("100000:1:2: large community", large, err)
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/osrg/gobgp/v4@v4.8.0 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want="65000:100: target 65000:100 (00 02 fd e8 00 00 00 64), distinguisher 65000:100 (00 00 fd e8 00 00 00 64)
100000:100: target 65535:100 (00 02 ff ff 00 00 00 64), distinguisher 65535:100 (00 00 ff ff 00 00 00 64)
200000:100: target 65535:100 (00 02 ff ff 00 00 00 64), distinguisher 65535:100 (00 00 ff ff 00 00 00 64)
1.34464:100: target 1.34464:100 (02 02 00 01 86 a0 00 64), distinguisher 1.34464:100 (00 02 00 01 86 a0 00 64)
100000:1:2: large community 100000:1:2 <nil>"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
