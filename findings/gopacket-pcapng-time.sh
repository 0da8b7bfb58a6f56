#!/usr/bin/env bash
# Which times does a pcapng reader see?
# Version: github.com/gopacket/gopacket v1.7.7, package pcapgo. Format: the pcapng draft, option if_tsresol of an interface: a negative
#       power of ten, or of two if the top bit is set.
# Guess: all resolutions are read as what they say.
# Seen: whole seconds (a power of zero) are a factor of a million off: 1970 in place of 2023. With powers of two the fraction is wrong:
#       half a second is 0.4996 (2^-20) or 0.5369 (2^-32), since the unit is rounded to whole nanoseconds first and then multiplied.
#       A section with minor version 2, which the draft says to treat as 0, is refused.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/gopacket/gopacket/pcapgo"
)

var le = binary.LittleEndian

func block(kind uint32, body []byte) []byte {
	b := le.AppendUint32(nil, kind)
	b = le.AppendUint32(b, uint32(12+len(body)))
	b = append(b, body...)
	return le.AppendUint32(b, uint32(12+len(body)))
}

// file is one section with one Ethernet interface of that resolution and one packet of 4 bytes.
func file(minor uint16, tsresol byte, stamp uint64) []byte {
	shb := le.AppendUint32(nil, 0x1A2B3C4D)
	shb = le.AppendUint16(le.AppendUint16(shb, 1), minor)
	shb = le.AppendUint64(shb, ^uint64(0)) // section length unknown
	idb := le.AppendUint32(le.AppendUint32(nil, 1), 0)
	idb = append(le.AppendUint16(le.AppendUint16(idb, 9), 1), tsresol, 0, 0, 0) // if_tsresol
	idb = le.AppendUint32(idb, 0)                                              // end of options
	epb := le.AppendUint32(nil, 0)
	epb = le.AppendUint32(le.AppendUint32(epb, uint32(stamp>>32)), uint32(stamp))
	epb = append(le.AppendUint32(le.AppendUint32(epb, 4), 4), 1, 2, 3, 4)
	return append(append(block(0x0A0D0D0A, shb), block(1, idb)...), block(6, epb)...)
}

func main() {
	const sec = 1_700_000_000
	for _, c := range []struct {
		name    string
		tsresol byte
		stamp   uint64
		nanos   int
	}{
		{"6", 6, sec*1e6 + 5e5, 5e8},
		{"9", 9, sec*1e9 + 5e8, 5e8},
		{"0", 0, sec, 0},
		{"2^-20", 0x80 | 20, sec<<20 + 1<<19, 5e8},
		{"2^-32", 0x80 | 32, sec<<32 + 1<<31, 5e8},
	} {
		r, err := pcapgo.NewNgReader(bytes.NewReader(file(0, c.tsresol, c.stamp)), pcapgo.DefaultNgReaderOptions)
		if err != nil {
			panic(err)
		}
		_, info, err := r.ReadPacketData()
		if err != nil {
			panic(err)
		}
		t := info.Timestamp
		fmt.Printf("if_tsresol %s: read %d.%09d, right %v\n", c.name, t.Unix(), t.Nanosecond(), t.Unix() == sec && t.Nanosecond() == c.nanos)
	}
	_, err := pcapgo.NewNgReader(bytes.NewReader(file(2, 6, 0)), pcapgo.DefaultNgReaderOptions)
	fmt.Println("minor version 2: refused", err != nil)
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/gopacket/gopacket/pcapgo@v1.7.7 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want="if_tsresol 6: read 1700000000.500000000, right true
if_tsresol 9: read 1700000000.500000000, right true
if_tsresol 0: read 1700.000000000, right false
if_tsresol 2^-20: read 1700000000.499646464, right false
if_tsresol 2^-32: read 1700000000.536870912, right false
minor version 2: refused true"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
