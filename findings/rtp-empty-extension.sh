#!/usr/bin/env bash
# What do an RTP packet's extensions become when one of them is empty?
# Version: github.com/pion/rtp v1.10.6. Format: RFC 8285 section 4.2: one-byte headers hold 1 to 16 octets, and the number 15 ends
#       the list; section 4.3: two-byte headers may be empty.
# Guess: SetExtension refuses what the form cannot hold, as it refuses 17 octets, or changes to two-byte headers.
# Seen: it accepts it. What is written has the length -1, which sets the number to 15: readers stop there, and every extension from
#       the empty one on is lost, without an error on either side. The same order in two-byte headers is read whole.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"fmt"

	"github.com/pion/rtp"
)

func main() {
	for _, profile := range []uint16{0xBEDE, 0x1000} { // one-byte, two-byte
		for _, first := range [][]byte{{7}, {}, make([]byte, 17)} {
			h := &rtp.Header{Version: 2, Extension: true, ExtensionProfile: profile}
			err := h.SetExtension(1, first)
			if err == nil {
				err = h.SetExtension(2, []byte{9})
			}
			if err != nil {
				fmt.Printf("%x, %d octets: refused\n", profile, len(first))
				continue
			}
			b, err := h.Marshal()
			if err != nil {
				panic(err)
			}
			var back rtp.Header
			if _, err := back.Unmarshal(b); err != nil {
				panic(err)
			}
			fmt.Printf("%x, %d octets: wrote % x, read %d of 2\n", profile, len(first), b[16:20], len(back.GetExtensionIDs()))
		}
	}
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/pion/rtp@v1.10.6 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want="bede, 1 octets: wrote 10 07 20 09, read 2 of 2
bede, 0 octets: wrote ff 20 09 00, read 0 of 2
bede, 17 octets: refused
1000, 1 octets: wrote 01 01 07 02, read 2 of 2
1000, 0 octets: wrote 01 00 02 01, read 2 of 2
1000, 17 octets: wrote 01 11 00 00, read 2 of 2"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
