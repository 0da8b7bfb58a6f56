#!/usr/bin/env bash
# What becomes of an OPEN whose optional parameters are longer than 255 octets?
# Version: github.com/osrg/gobgp/v4 v4.8.0, package pkg/packet/bgp. Format: RFC 4271 section 4.2, RFC 9072.
# Guess: Serialize uses the extended length of RFC 9072, or returns an error.
# Seen: neither. The length octet wraps (256 becomes 0), no error; whoever reads the message, this library included, sees fewer
#       parameters: of 32 address families none. And an OPEN in the extended form, which RFC 9072 allows at any length, is refused.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

func written(families int) {
	var params []bgp.OptionParameterInterface
	for i := range families {
		c := bgp.NewCapMultiProtocol(bgp.Family(uint32(i+1)<<16 | 1))
		params = append(params, bgp.NewOptionParameterCapability([]bgp.ParameterCapabilityInterface{c}))
	}
	m, err := bgp.NewBGPOpenMessage(65000, 90, netip.MustParseAddr("10.0.0.1"), params)
	if err != nil {
		panic(err)
	}
	b, err := m.Serialize()
	if err != nil {
		panic(err)
	}
	back, err := bgp.ParseBGPMessage(b)
	if err != nil {
		panic(err)
	}
	fmt.Printf("%d families: sent %d, octet %d, read back %d\n", families, len(params), b[28], len(back.Body.(*bgp.BGPOpen).OptParams))
}

// extended is an OPEN with RFC 9072's two octets of 255 and 16-bit lengths.
func extended(families int) []byte {
	var params []byte
	for i := range families {
		params = append(params, 2, 0, 6, 1, 4, 0, byte(i+1), 0, 1) // capabilities: multiprotocol, AFI i+1, SAFI 1
	}
	b := make([]byte, 16, 64)
	for i := range b {
		b[i] = 0xff
	}
	b = binary.BigEndian.AppendUint16(b, uint16(16+2+1+10+3+len(params)))
	b = append(b, 1, 4)                         // OPEN, version 4
	b = binary.BigEndian.AppendUint16(b, 65000) // AS
	b = binary.BigEndian.AppendUint16(b, 90)    // hold time
	b = append(b, 10, 0, 0, 1, 255, 255)
	b = binary.BigEndian.AppendUint16(b, uint16(len(params)))
	return append(b, params...)
}

func main() {
	for _, n := range []int{31, 32, 43} {
		written(n)
	}
	_, err := bgp.ParseBGPMessage(extended(1))
	fmt.Println("RFC 9072 with 1 family: refused", err != nil)
	_, err = bgp.ParseBGPMessage(extended(60))
	fmt.Println("RFC 9072 with 60 families: refused", err != nil)
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/osrg/gobgp/v4@v4.8.0 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want="31 families: sent 31, octet 248, read back 31
32 families: sent 32, octet 0, read back 0
43 families: sent 43, octet 88, read back 11
RFC 9072 with 1 family: refused true
RFC 9072 with 60 families: refused true"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
