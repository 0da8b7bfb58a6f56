#!/usr/bin/env bash
# What does a configuration test say of a file that is not there?
# Version: keepalived 1:2.2.7-1+b2 (Debian 12).
# Guess: `keepalived --config-test -f FILE` fails; a mistyped keyword in a file does (status 5).
# Seen: it prints "Config files missing" and exits with 0, so a roll-out that tests the wrong path is told that all is well. A missing
#       file of an `include` line passes likewise.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (a network namespace of its own)"; exit 2; }
if [ "${1:-}" != inside ]; then
  dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
  (cd "$dir" && chmod 777 . && apt-get download -q keepalived libnl-3-200 libnl-genl-3-200 libnl-route-3-200 libsnmp40 libip4tc2 libip6tc2 libnftnl11 libmnl0 libxtables12 &&
    for d in *.deb; do dpkg -x "$d" root || exit 1; done) >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
  cp "$0" "$dir/me.sh"; export dir
  got=$(unshare -n bash "$dir/me.sh" inside)
  echo "$got"
  want=$'right: 0\nmistyped keyword: 5\nmissing include: 0\nmissing file: 0'
  [ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
  exit 0
fi
cd "$dir"; export LD_LIBRARY_PATH=$(echo "$dir"/root/usr/lib/*-linux-gnu "$dir"/root/lib/*-linux-gnu | tr " " :)
ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up; ip addr add 192.0.2.100/24 dev v0
conf=$'vrrp_instance A {\n interface v0\n virtual_router_id 51\n virtual_ipaddress {\n  192.0.2.1/24\n }\n}'
status() { local s=0; root/usr/sbin/keepalived --config-test="$dir/log" -f "$1" >/dev/null 2>&1 || s=$?; echo "$2: $s"; }
echo "$conf" >right; echo "${conf/virtual_router_id 51/virtual_router_id 51$'\n' prioritty 90}" >wrong
printf 'include %s/none/*.conf\n%s\n' "$dir" "$conf" >include
status "$dir/right" right; status "$dir/wrong" "mistyped keyword"; status "$dir/include" "missing include"; status "$dir/none" "missing file"
