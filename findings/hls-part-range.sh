#!/usr/bin/env bash
# Which bytes does a low-latency HLS playlist name after it was read and written again?
# Version: npm's hls-parser 0.16.1. Format: draft-pantos-hls-rfc8216bis, EXT-X-PART: BYTERANGE without an offset continues the part before
#       in the same file, and is a quoted string; EXT-X-STREAM-INF: CLOSED-CAPTIONS=NONE.
# Guess: the same.
# Seen: the part that continues gets the offset -1, which is no number that the format has, and no quotes. CLOSED-CAPTIONS=NONE, which says that
#       there are none anywhere, is left out. The same range of a whole segment (EXT-X-BYTERANGE) gets its right offset.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
npm install --ignore-scripts --no-audit --no-fund hls-parser@0.16.1 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
cat >main.js <<'JS'
const HLS = require('hls-parser');
const head = '#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:4\n';
for (const [text, tag] of [
  [head + '#EXT-X-PART-INF:PART-TARGET=1\n#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=3\n#EXTINF:4,\na.mp4\n' +
    '#EXT-X-PART:DURATION=1,URI="b.mp4",BYTERANGE="100@0"\n#EXT-X-PART:DURATION=1,URI="b.mp4",BYTERANGE="100"\n' +
    '#EXT-X-PRELOAD-HINT:TYPE=PART,URI="c.mp4"\n', '#EXT-X-PART:'],
  [head + '#EXTINF:4,\n#EXT-X-BYTERANGE:100@0\nb.mp4\n#EXTINF:4,\n#EXT-X-BYTERANGE:100\nb.mp4\n', '#EXT-X-BYTERANGE'],
  ['#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1000,CLOSED-CAPTIONS=NONE\nv.m3u8\n', '#EXT-X-STREAM-INF'],
]) {
  for (const [when, lines] of [['was', text], ['is ', HLS.stringify(HLS.parse(text))]])
    console.log(when, lines.split('\n').filter(l => l.startsWith(tag)).join(' '));
}
JS
got=$(node main.js)
want=$(cat <<'W'
was #EXT-X-PART:DURATION=1,URI="b.mp4",BYTERANGE="100@0" #EXT-X-PART:DURATION=1,URI="b.mp4",BYTERANGE="100"
is  #EXT-X-PART:DURATION=1,URI="b.mp4",BYTERANGE=100@0 #EXT-X-PART:DURATION=1,URI="b.mp4",BYTERANGE=100@-1
was #EXT-X-BYTERANGE:100@0 #EXT-X-BYTERANGE:100
is  #EXT-X-BYTERANGE:100@0 #EXT-X-BYTERANGE:100@100
was #EXT-X-STREAM-INF:BANDWIDTH=1000,CLOSED-CAPTIONS=NONE
is  #EXT-X-STREAM-INF:BANDWIDTH=1000
W
)
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
