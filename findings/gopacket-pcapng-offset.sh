#!/usr/bin/env bash
# When was a packet captured whose interface has an offset of time?
# Version: github.com/gopacket/gopacket v1.7.7, package pcapgo. Format: the pcapng draft, option if_tsoffset: seconds that are added to each
#       timestamp of the interface.
# Guess: what is written with an offset is read with the same time.
# Seen: the reader adds the offset, as the draft says. The writer writes it and does not take it from the timestamps: read again, by itself or by
#       others, a packet of 2023 is of 2077.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"bytes"
	"fmt"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

func main() {
	at := time.Unix(1_700_000_005, 250_000_000).UTC()
	for _, offset := range []uint64{0, 1_700_000_000} {
		var file bytes.Buffer
		nic := pcapgo.NgInterface{Name: "nic", LinkType: layers.LinkTypeEthernet, TimestampOffset: offset}
		w, err := pcapgo.NewNgWriterInterface(&file, nic, pcapgo.DefaultNgWriterOptions)
		if err != nil {
			panic(err)
		}
		if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: at, CaptureLength: 4, Length: 4}, []byte{1, 2, 3, 4}); err != nil {
			panic(err)
		}
		if err := w.Flush(); err != nil {
			panic(err)
		}
		r, err := pcapgo.NewNgReader(&file, pcapgo.DefaultNgReaderOptions)
		if err != nil {
			panic(err)
		}
		_, info, err := r.ReadPacketData()
		if err != nil {
			panic(err)
		}
		fmt.Printf("if_tsoffset %d: written %v, read %v\n", offset, at.Format(time.RFC3339Nano), info.Timestamp.UTC().Format(time.RFC3339Nano))
	}
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/gopacket/gopacket/pcapgo@v1.7.7 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
go mod tidy >/dev/null 2>&1
got=$(go run .)
want="if_tsoffset 0: written 2023-11-14T22:13:25.25Z, read 2023-11-14T22:13:25.25Z
if_tsoffset 1700000000: written 2023-11-14T22:13:25.25Z, read 2077-09-27T20:26:45.25Z"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
