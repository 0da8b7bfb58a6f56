#!/usr/bin/env bash
# Which title does a player show whose station has sent an empty one?
# Version: npm's icecast-parser 4.0.2. Format: the metadata of an ICY stream, NAME='VALUE'; one after the other, padded with zeros to
#       a multiple of 16. Icecast sends the title empty when a source has given none.
# Guess: an empty title, and the address.
# Seen: one value that begins with the quote and runs to the next value's end, names and all; so the address is taken for the title.
#       An empty value at the end is left out. Titles with an apostrophe are right.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
npm install --ignore-scripts --no-audit --no-fund icecast-parser@4.0.2 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
cat >main.js <<'JS'
const {StreamReader} = require('icecast-parser/dist/StreamReader.js');
for (const text of ["StreamTitle='A - B';StreamUrl='http://example.com/';", "StreamTitle='Rock 'n' Roll';", "StreamTitle='A - B';StreamUrl='';",
    "StreamTitle='';StreamUrl='http://example.com/';"]) {
  const blocks = Math.ceil(text.length / 16);
  const padded = Buffer.alloc(blocks * 16);
  padded.write(text);
  const reader = new StreamReader(8);   // 8 octets of sound before each metadata
  reader.on('metadata', m => console.log(text, 'is', JSON.stringify([...m])));
  reader.resume();
  reader.write(Buffer.concat([Buffer.from('soundsou'), Buffer.from([blocks]), padded]));
}
JS
got=$(node main.js)
want=$(cat <<'W'
StreamTitle='A - B';StreamUrl='http://example.com/'; is [["StreamTitle","A - B"],["StreamUrl","http://example.com/"]]
StreamTitle='Rock 'n' Roll'; is [["StreamTitle","Rock 'n' Roll"]]
StreamTitle='A - B';StreamUrl=''; is [["StreamTitle","A - B"]]
StreamTitle='';StreamUrl='http://example.com/'; is [["StreamTitle","';StreamUrl='http://example.com/"]]
W
)
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
