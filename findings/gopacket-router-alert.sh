#!/usr/bin/env bash
# Can a hop-by-hop header with a Router Alert, as every MLD report has one, be written?
# Version: github.com/gopacket/gopacket v1.7.7.
# Guess: with FixLengths it is padded to eight octets (RFC 8200, 4.2), with the alignment that RFC 2711 gives (2n+0) or without one.
# Seen: "IPv6HopByHop actual length must be multiple of 8" for every alignment, and for every option whose data are two octets: the
#       two octets of the header are not counted when the padding is. Data of four octets happen to fit.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"fmt"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

func main() {
	for _, o := range []layers.IPv6HopByHopOption{
		{OptionType: 5, OptionData: []byte{0, 0}, OptionAlignment: [2]uint8{2, 0}},
		{OptionType: 5, OptionData: []byte{0, 0}},
		{OptionType: 0xc2, OptionData: []byte{0, 1, 0, 0}, OptionAlignment: [2]uint8{4, 2}}, // jumbo payload
	} {
		h := &layers.IPv6HopByHop{Options: []*layers.IPv6HopByHopOption{&o}}
		h.NextHeader = layers.IPProtocolICMPv6
		buf := gopacket.NewSerializeBuffer()
		err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true}, h)
		if err != nil {
			fmt.Printf("type %d, %d octets, alignment %v: %v\n", o.OptionType, len(o.OptionData), o.OptionAlignment, err)
			continue
		}
		fmt.Printf("type %d, %d octets, alignment %v: %x\n", o.OptionType, len(o.OptionData), o.OptionAlignment, buf.Bytes())
	}
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/gopacket/gopacket@v1.7.7 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want="type 5, 2 octets, alignment [2 0]: IPv6HopByHop actual length must be multiple of 8
type 5, 2 octets, alignment [0 0]: IPv6HopByHop actual length must be multiple of 8
type 194, 4 octets, alignment [4 2]: 3a00c20400010000"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
