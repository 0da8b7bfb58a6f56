#!/usr/bin/env bash
# Is a TCP layer that is written again, with other options, the segment that it says?
# Version: github.com/gopacket/gopacket v1.7.7.
# Guess: with FixLengths padding and data offset follow the options each time, as those of IPv4 do.
# Seen: the padding that the first writing has needed stays (TCP.Padding is set when the options do not fill a word, and not cleared when they
#       do), and the data offset does not count it: its zeros are the first octets of the payload.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"fmt"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

func write(t *layers.TCP, payload string) []byte {
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true}, t, gopacket.Payload(payload)); err != nil {
		panic(err)
	}
	return append([]byte(nil), buf.Bytes()...)
}

func show(segment []byte) {
	var t layers.TCP
	if err := t.DecodeFromBytes(segment, gopacket.NilDecodeFeedback); err != nil {
		panic(err)
	}
	fmt.Printf("header of %d words, payload %q\n", t.DataOffset, t.Payload)
}

func main() {
	mss := layers.TCPOption{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 180}}
	scale := layers.TCPOption{OptionType: layers.TCPOptionKindWindowScale, OptionLength: 3, OptionData: []byte{7}}
	t := &layers.TCP{SrcPort: 1, DstPort: 2, SYN: true}
	t.Options = []layers.TCPOption{mss}
	show(write(t, "GET"))
	t.Options = []layers.TCPOption{mss, scale}
	show(write(t, "GET"))
	t.Options = []layers.TCPOption{mss}
	show(write(t, "GET"))
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/gopacket/gopacket@v1.7.7 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want='header of 6 words, payload "GET"
header of 7 words, payload "GET"
header of 6 words, payload "\x00GET"'
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
