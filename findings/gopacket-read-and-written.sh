#!/usr/bin/env bash
# Is a packet that is read and written again, with nothing fixed and nothing computed, the same?
# Version: github.com/gopacket/gopacket v1.7.7.
# Guess: yes, as with TCP, UDP and IPv4: SerializeOptions{} writes what the fields say.
# Seen: SCTP's checksum, which is read into a field, is written as zero: of UDP the field is written. The options of a router advertisement
#       come out in reverse: each is put before the one that stands before it.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"encoding/hex"
	"fmt"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

func main() {
	for _, c := range []struct {
		name  string
		first gopacket.LayerType
		hex   string
	}{
		{"udp", layers.LayerTypeUDP, "123456780009a1b200"},
		{"sctp", layers.LayerTypeSCTP, "1234567800000001ef66364a" + "00030015000000010000000200000003" + "68656c6c6f000000"},
		{"router advertisement", layers.LayerTypeICMPv6, "8600a1b240000708" + "0000000000000000" + "0101020304050607" + "0501000000000578"},
	} {
		raw, err := hex.DecodeString(c.hex)
		if err != nil {
			panic(err)
		}
		var all []gopacket.SerializableLayer
		for _, l := range gopacket.NewPacket(raw, c.first, gopacket.Default).Layers() {
			all = append(all, l.(gopacket.SerializableLayer))
		}
		buf := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{}, all...); err != nil {
			panic(err)
		}
		if out := hex.EncodeToString(buf.Bytes()); out == c.hex {
			fmt.Println(c.name+":", "the same")
		} else {
			fmt.Printf("%s:\n%s\n%s\n", c.name, c.hex, out)
		}
	}
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/gopacket/gopacket@v1.7.7 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want="udp: the same
sctp:
1234567800000001ef66364a0003001500000001000000020000000368656c6c6f000000
1234567800000001000000000003001500000001000000020000000368656c6c6f000000
router advertisement:
8600a1b240000708000000000000000001010203040506070501000000000578
8600a1b240000708000000000000000005010000000005780101020304050607"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
