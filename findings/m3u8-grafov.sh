#!/usr/bin/env bash
# Does a playlist of an HLS stream still mean the same when it was read and written again?
# Version: github.com/grafov/m3u8 v0.12.1. Format: RFC 8216 sections 4.3.2.2 (byte range), 4.3.2.4 (key), 4.3.2.5 (map).
# Guess: yes, but for the order of lines and unknown tags.
# Seen: three times no. A range without an offset, which continues the one before, gets the offset 0: the same bytes are played twice.
#       A key that begins at the second segment is written at the head too, so that the first segment, which is in the clear, is
#       declared encrypted. A second initialisation segment (EXT-X-MAP, after a discontinuity) is lost.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"fmt"
	"strings"

	"github.com/grafov/m3u8"
)

const head = "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-TARGETDURATION:10\n"

func main() {
	for _, c := range []struct{ name, tag, body string }{
		{"ranges", "BYTERANGE", "#EXTINF:10,\n#EXT-X-BYTERANGE:1000@0\na.ts\n#EXTINF:10,\n#EXT-X-BYTERANGE:1000\na.ts\n"},
		{"key", "KEY", "#EXTINF:10,\na.ts\n#EXT-X-KEY:METHOD=AES-128,URI=\"k\"\n#EXTINF:10,\nb.ts\n"},
		{"maps", "MAP", "#EXT-X-MAP:URI=\"i0.mp4\"\n#EXTINF:10,\na.mp4\n#EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI=\"i1.mp4\"\n#EXTINF:10,\nb.mp4\n"},
	} {
		p, _, err := m3u8.DecodeFrom(strings.NewReader(head+c.body+"#EXT-X-ENDLIST\n"), true)
		if err != nil {
			panic(err)
		}
		fmt.Print(c.name, ", was:", lines(c.body, c.tag), "\n", c.name, ", is: ", lines(p.Encode().String(), c.tag), "\n")
	}
}

// lines lists the tag's lines and the segments.
func lines(s, tag string) (out string) {
	for l := range strings.SplitSeq(s, "\n") {
		if strings.HasPrefix(l, "#EXT-X-"+tag) || l != "" && l[0] != '#' {
			out += " " + strings.TrimPrefix(l, "#EXT-X-")
		}
	}
	return out
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/grafov/m3u8@v0.12.1 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want='ranges, was: BYTERANGE:1000@0 a.ts BYTERANGE:1000 a.ts
ranges, is:  BYTERANGE:1000@0 a.ts BYTERANGE:1000@0 a.ts
key, was: a.ts KEY:METHOD=AES-128,URI="k" b.ts
key, is:  KEY:METHOD=AES-128,URI="k" a.ts KEY:METHOD=AES-128,URI="k" b.ts
maps, was: MAP:URI="i0.mp4" a.mp4 MAP:URI="i1.mp4" b.mp4
maps, is:  MAP:URI="i0.mp4" a.mp4 b.mp4'
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
