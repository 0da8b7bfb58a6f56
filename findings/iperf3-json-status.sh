#!/usr/bin/env bash
# Does a script notice that a measurement has failed?
# Version: iperf3 3.12-1+deb12u1 (Debian 12), -J (JSON).
# Guess: the exit status is the same with -J as without.
# Seen: without -J it is 1 if nobody listens. With -J it is 0; the error is a field of the answer, and what was measured is missing.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (a network namespace of its own)"; exit 2; }
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
(chmod 777 . && apt-get download -q iperf3=3.12-1+deb12u1 libiperf0=3.12-1+deb12u1 libsctp1 && for d in *.deb; do dpkg -x "$d" root || exit 1; done) >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
export LD_LIBRARY_PATH=$(echo root/usr/lib/*-linux-gnu)
got=$(unshare -n bash -c '
  ip link set lo up
  for form in "" -J; do
    root/usr/bin/iperf3 -c 127.0.0.1 -p 5301 $form >answer 2>&1 && status=0 || status=$?
    echo "iperf3 $form: status $status, $(grep -o "unable to connect to server: Connection refused" answer)"
  done')
want="iperf3 : status 1, unable to connect to server: Connection refused
iperf3 -J: status 0, unable to connect to server: Connection refused"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
