#!/usr/bin/env bash
# With which priority does a VRRP router speak that was given none?
# Version: keepalived 1:2.2.7-1+b2 (Debian 12). Format: RFC 5798, 255 is for the owner of the addresses.
# Guess: 100, the RFC's default, which keepalived's own messages name as the default, too; `state` is only what it starts as.
# Seen: with `state MASTER` it announces 255, with `state BACKUP` 100. So it does not give way to a peer with `priority 200`.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (a network namespace of its own)"; exit 2; }
if [ "${1:-}" != inside ]; then
  dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
  (cd "$dir" && chmod 777 . && apt-get download -q keepalived tcpdump libnl-3-200 libnl-genl-3-200 libnl-route-3-200 libpcap0.8 libsnmp40 libip4tc2 libip6tc2 libnftnl11 libmnl0 libxtables12 &&
    for d in *.deb; do dpkg -x "$d" root || exit 1; done) >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
  cp "$0" "$dir/me.sh"; export dir
  got=$(unshare -n bash "$dir/me.sh" inside)
  echo "$got"
  want=$'MASTER: prio 255\nBACKUP: prio 100'
  [ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
  exit 0
fi
cd "$dir"; export LD_LIBRARY_PATH=$(echo "$dir"/root/usr/lib/*-linux-gnu "$dir"/root/lib/*-linux-gnu | tr " " :)
ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up; ip addr add 192.0.2.100/24 dev v0
k=; trap 'kill $k 2>/dev/null || true' EXIT
for state in MASTER BACKUP; do
  printf 'vrrp_instance A {\n interface v0\n state %s\n virtual_router_id 51\n virtual_ipaddress {\n  192.0.2.1/24\n }\n}\n' $state >conf
  root/usr/sbin/keepalived -n -l -f "$dir/conf" -p "$dir/pid" -r "$dir/vrrp.pid" -c "$dir/check.pid" >log 2>&1 & k=$!
  echo "$state: $(timeout 20 root/usr/bin/tcpdump -c1 -nvi v1 'ip proto 112' 2>/dev/null | grep -o 'prio [0-9]*')"
  kill $k; wait $k || true; k=
done
