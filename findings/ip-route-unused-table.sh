#!/usr/bin/env bash
# What does `ip route show` say of a routing table that is empty?
# Version: iproute2 6.1.0 (Debian 12), Linux 6.18.
# Guess: nothing, status 0; with -j an empty list.
# Seen: that only of a table that has once had a route. Of another one the kernel says that it does not exist: status 2, and with -j half a JSON text,
#       "[". `ip route flush` likewise. Whether an empty table is an error depends on what has been in it since the machine was started.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (a network namespace of its own)"; exit 2; }
if [ "${1:-}" != inside ]; then
  got=$(unshare -n bash "$0" inside 2>/dev/null)
  want="never used: status 2, said: 
-j: status 2, said: [
flush: status 2, said: 
used once: status 0, said: 
-j: status 0, said: []
flush: status 0, said: "
  echo "$got"
  [ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
  exit 0
fi
say() { out=$("${@:2}") && s=0 || s=$?; echo "$1: status $s, said: $out"; }
say "never used" ip route show table 999
say "-j" ip -j route show table 999
say "flush" ip route flush table 999
ip route add blackhole 192.0.2.0/24 table 999; ip route del blackhole 192.0.2.0/24 table 999
say "used once" ip route show table 999
say "-j" ip -j route show table 999
say "flush" ip route flush table 999
