#!/usr/bin/env bash
# Are a KNX device's values the same after a way through datapoint types?
# Version: npm's knx 2.5.4. Format: KNX 03_07_02: DPT 16.001 is text in ISO 8859-1; DPT 9.002 goes from -671088.64 (octets F8 00) to 670433.28.
# Guess: text with umlauts comes back; the smallest value is F8 00, or refused.
# Seen: text is written in ISO 8859-1 and read with seven bits: each umlaut is another letter, and the padding of zeros belongs to the text. The smallest
#       value is written as 04 00, which is 10.24; -670433.28 is right.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
npm install --no-audit --no-fund --ignore-scripts knx@2.5.4 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
cat >main.js <<'JS'
const types = require('knx/src/dptlib');
for (const [id, value] of [['DPT16.000', 'Gruss, 14 chars'.slice(0, 14)], ['DPT16.001', 'Grüße'], ['DPT9.002', -670433.28], ['DPT9.002', -671088.64]]) {
  const type = types.resolve(id);
  const octets = Buffer.from(type.formatAPDU(value));
  console.log(id, JSON.stringify(value), 'written', octets.toString('hex'), 'read', JSON.stringify(type.fromBuffer(octets)).replace(/(\\u0000)+/, ' and zeros'));
}
JS
got=$(node main.js 2>/dev/null)
want='DPT16.000 "Gruss, 14 char" written 47727573732c2031342063686172 read "Gruss, 14 char"
DPT16.001 "Grüße" written 4772fcdf65000000000000000000 read "Gr|_e and zeros"
DPT9.002 -670433.28 written f802 read -670433.28
DPT9.002 -671088.64 written 0400 read 10.24'
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
