#!/usr/bin/env bash
# What does a DHCPv6 client say that has been trying for eleven minutes, and how does it write a name with the final dot?
# Version: github.com/insomniacslk/dhcp v0.0.0-20260901064844-234b97448fae, packages dhcpv6, rfc1035label.
# Format: RFC 8415 section 21.9 (hundredths of a second in 16 bits; more is said as 0xffff), RFC 1035 section 3.1.
# Guess: 0xffff from 655.35 s on, and "host.example." is the same name as "host.example".
# Seen: the time begins anew: after 11 minutes 4.64 s, so a server that waits for clients in need goes on waiting. The final dot becomes
#       one more empty label: two zero octets at the end in place of one.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"fmt"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/rfc1035label"
)

func main() {
	for _, t := range []time.Duration{10 * time.Minute, 655 * time.Second, 656 * time.Second, 11 * time.Minute} {
		m, err := dhcpv6.NewMessage()
		if err != nil {
			panic(err)
		}
		m.AddOption(dhcpv6.OptElapsedTime(t))
		back, err := dhcpv6.MessageFromBytes(m.ToBytes())
		if err != nil {
			panic(err)
		}
		fmt.Println(t, "is said as", back.Options.ElapsedTime())
	}
	for _, name := range []string{"host.example", "host.example."} {
		b := (&rfc1035label.Labels{Labels: []string{name}}).ToBytes()
		fmt.Printf("%s: % x\n", name, b)
	}
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/insomniacslk/dhcp/dhcpv6@v0.0.0-20260901064844-234b97448fae >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want="10m0s is said as 10m0s
10m55s is said as 10m55s
10m56s is said as 640ms
11m0s is said as 4.64s
host.example: 04 68 6f 73 74 07 65 78 61 6d 70 6c 65 00
host.example.: 04 68 6f 73 74 07 65 78 61 6d 70 6c 65 00 00"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
