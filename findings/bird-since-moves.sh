#!/usr/bin/env bash
# Is the time since when a protocol is up a constant while nothing happens?
# Version: bird2 2.0.12-7 (Debian 12), `timeformat protocol iso long us`.
# Guess: yes: it is the time of the last change, so two looks can be compared as text to see whether a session has flapped.
# Seen: between looks it moves by a few microseconds, forth and back, since it is computed anew each time from two clocks. In ten
#       looks at a protocol that stays as it is there are several different times.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (a network namespace of its own)"; exit 2; }
if [ "${1:-}" != inside ]; then
  dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
  (cd "$dir" && chmod 777 . && apt-get download -q bird2=2.0.12-7 libssh-gcrypt-4 libreadline8 libtinfo6 && for d in *.deb; do dpkg -x "$d" root || exit 1; done) >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
  cp "$0" "$dir/me.sh"; export dir
  got=$(unshare -n bash "$dir/me.sh" inside)
  echo "$got"
  [ "$got" = "state changes: 0; more than one time: yes" ] || { echo "CHANGED"; exit 1; }
  exit 0
fi
cd "$dir"; export LD_LIBRARY_PATH=$(echo "$dir"/root/usr/lib/*-linux-gnu "$dir"/root/lib/*-linux-gnu | tr " " :)
ip link set lo up
cat >bird.conf <<'C'
router id 10.0.0.1;
timeformat protocol iso long us;
protocol device {}
protocol static fixed { ipv4; route 192.0.2.0/24 blackhole; }
C
root/usr/sbin/bird -f -c bird.conf -s "$dir/ctl" -P "$dir/pid" >log 2>&1 & bird=$!
trap 'kill $bird 2>/dev/null || true' EXIT
timeout 30 bash -c 'until [ -S ctl ]; do sleep 0.1; done'
for _ in $(seq 10); do root/usr/sbin/birdc -s "$dir/ctl" show protocols | grep fixed; sleep 0.3; done >looks
kill $bird; wait $bird || true
states=$(awk '{print $2, $3, $4}' looks | sort -u | wc -l)
times=$(awk '{print $5, $6}' looks | sort -u | wc -l)
echo "state changes: $((states - 1)); more than one time: $([ "$times" -gt 1 ] && echo yes || echo no)"
