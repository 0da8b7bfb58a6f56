#!/usr/bin/env bash
# How long is a router announced for, if it is to be for a day?
# Version: github.com/mdlayher/ndp v1.1.0. Format: RFC 4861 section 4.2, a lifetime of 16 bits in seconds; 0 means "not a default router".
# Guess: what does not fit is refused, as the library refuses a prefix with bits beyond its length, or cut to the largest value.
# Seen: the seconds are taken modulo 65536, without an error: a day becomes 5h47m44s, and 18h12m16s withdraws the router. The lifetime
#       of a prefix, 32 bits in the same message, is right; the two times in milliseconds are cut to whole ones.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/mdlayher/ndp"
)

func main() {
	for _, life := range []time.Duration{30 * time.Minute, 65535 * time.Second, 65536 * time.Second, 24 * time.Hour} {
		b, err := ndp.MarshalMessage(&ndp.RouterAdvertisement{
			RouterLifetime: life,
			ReachableTime:  1500 * time.Microsecond,
			Options: []ndp.Option{&ndp.PrefixInformation{
				PrefixLength: 64, ValidLifetime: life, PreferredLifetime: life, Prefix: netip.MustParseAddr("2001:db8::"),
			}},
		})
		if err != nil {
			fmt.Println(life, "refused:", err)
			continue
		}
		m, err := ndp.ParseMessage(b)
		if err != nil {
			panic(err)
		}
		ra := m.(*ndp.RouterAdvertisement)
		fmt.Printf("%v: router %v, prefix %v, reachable %v\n", life, ra.RouterLifetime, ra.Options[0].(*ndp.PrefixInformation).ValidLifetime, ra.ReachableTime)
	}
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/mdlayher/ndp@v1.1.0 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want="30m0s: router 30m0s, prefix 30m0s, reachable 1ms
18h12m15s: router 18h12m15s, prefix 18h12m15s, reachable 1ms
18h12m16s: router 0s, prefix 18h12m16s, reachable 1ms
24h0m0s: router 5h47m44s, prefix 24h0m0s, reachable 1ms"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
