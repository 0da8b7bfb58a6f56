#!/usr/bin/env bash
# How much does a test send that is told how much, or how fast?
# Version: iperf3 3.12-1+deb12u1 (Debian 12), TCP.
# Guess: -n sends as many bytes as said, the last write being a short one; -b 64K for two seconds sends 16000 bytes.
# Seen: whole blocks of 128 KiB: told 1 it sends 131072, told 1000000 1048576, and -b 64K sends 131072 in two seconds, eight times the
#       rate. Three streams told 1000000 send 1048576 in all. With -l 1000 it is what was said.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (a network namespace of its own)"; exit 2; }
if [ "${1:-}" != inside ]; then
  dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
  (cd "$dir" && chmod 777 . && apt-get download -q iperf3=3.12-1+deb12u1 libiperf0=3.12-1+deb12u1 libsctp1 && for d in *.deb; do dpkg -x "$d" root || exit 1; done) >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
  cp "$0" "$dir/me.sh"; export dir
  got=$(unshare -n bash "$dir/me.sh" inside)
  want="-n 1: 131072
-n 1000000: 1048576
-n 1000000 -P 3: 1048576
-n 1000000 -l 1000: 1000000
-t 2 -b 64K: 131072
-t 2 -b 64K -l 1000: 16000"
  echo "$got"
  [ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
  exit 0
fi
cd "$dir"; export LD_LIBRARY_PATH=$(echo root/usr/lib/*-linux-gnu)
ip link set lo up
root/usr/bin/iperf3 -s -p 5301 -B 127.0.0.1 >server 2>&1 & server=$!
trap 'kill $server 2>/dev/null || true' EXIT
for question in "-n 1" "-n 1000000" "-n 1000000 -P 3" "-n 1000000 -l 1000" "-t 2 -b 64K" "-t 2 -b 64K -l 1000"; do
  for _ in {1..50}; do # until the server listens and has done with the test before
    root/usr/bin/iperf3 -c 127.0.0.1 -p 5301 $question -J >answer || true
    ! grep -q sum_sent answer || break
    sleep 0.2
  done
  python3 -c 'import json, sys; print(sys.argv[1] + ":", json.load(open("answer"))["end"]["sum_sent"]["bytes"])' "$question"
done
