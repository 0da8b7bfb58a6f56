#!/usr/bin/env bash
# Are rules that `nft -n list ruleset` (numbers instead of names) has saved the same when they are loaded again?
# Version: nftables 1.0.6 (Debian 12).
# Guess: yes, as those of `nft list ruleset` and of `nft -j` are.
# Seen: not all. Events of `ct event set` are listed as 0x1,0x4, which is a syntax error when read; and `fib saddr . iif oif missing` comes back as a
#       comparison with interface 0, which no longer says what it means.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (a network namespace of its own)"; exit 2; }
nft --version 2>/dev/null | grep -q "v1\.0\.6" || { echo "another version of nft, or none"; exit 2; }
if [ "${1:-}" != inside ]; then
  dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; export dir
  got=$(unshare -n bash "$0" inside)
  want="tcp dport 80 ct state new accept: plain same, JSON same, numeric same
ct event set new,destroy: plain same, JSON same, numeric not taken
fib saddr . iif oif missing drop: plain same, JSON same, numeric changed"
  echo "$got"
  [ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
  exit 0
fi
again() {
  nft flush ruleset
  nft $2 -f "$dir/$1" 2>/dev/null || { echo "not taken"; return; }
  nft list ruleset >"$dir/again"; cmp -s "$dir/plain" "$dir/again" && echo same || echo changed
}
for rule in "tcp dport 80 ct state new accept" "ct event set new,destroy" "fib saddr . iif oif missing drop"; do
  nft flush ruleset
  nft "add table inet t; add chain inet t c { type filter hook prerouting priority 0; }; add rule inet t c $rule"
  nft list ruleset >"$dir/plain"; nft -j list ruleset >"$dir/json"; nft -n list ruleset >"$dir/numeric"
  echo "$rule: plain $(again plain ''), JSON $(again json -j), numeric $(again numeric '')"
done
