#!/usr/bin/env bash
# Whose packets does a chain on a NIC see when the NIC gets another name?
# Version: Linux 6.18, nftables 1.0.6, a chain of the netdev family at the ingress hook.
# Guess: the same NIC's: it was looked up when the chain was made, as with every other filter that is put on a device (tc, XDP). When the
#       NIC goes the chain goes.
# Seen: the chain goes by the name. A NIC that is renamed is filtered no more, at once and without a word; whichever gets the name is, and the
#       listing is the same all the time, also when no NIC has the name.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (a network namespace of its own)"; exit 2; }
if [ "${1:-}" != inside ]; then
  got=$(unshare --net bash "$0" inside)
  want="before: seen
renamed: not seen
another one with the name: seen
the first beside it: not seen
nobody has the name, the chain is: listed
the first has the name again: seen"
  echo "$got"
  [ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
  exit 0
fi
nic() { # NAME PEER
  ip link add "$1" type veth peer name "$2"
  for n in "$1" "$2"; do echo 1 >"/proc/sys/net/ipv6/conf/$n/disable_ipv6"; ip link set "$n" up; done
}
count() {
  nft -j list table netdev t | python3 -c '
import json, sys
print(next(e["counter"]["packets"] for r in json.load(sys.stdin)["nftables"] if "rule" in r for e in r["rule"]["expr"] if "counter" in e))'
}
send() { # WORDS PEER: ten frames to the NIC whose peer that is
  local before
  before=$(count)
  # A link that has just come up may lose the first ones.
  for _ in $(seq 50); do [ "$(ip -j link show "$2" | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["operstate"])')" = UP ] && break; sleep 0.1; done
  python3 -c '
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((sys.argv[1], 0))
for _ in range(10):
    s.send(b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5" + bytes(50))' "$2"
  [ "$(count)" = $((before + 10)) ] && echo "$1: seen" || { [ "$(count)" = "$before" ] && echo "$1: not seen"; }
}
nic nic0 far0
printf 'table netdev t {\n chain c {\n  type filter hook ingress device nic0 priority 0\n  ether type 0x88b5 counter\n }\n}\n' | nft -f -
send before far0
ip link set nic0 down; ip link set nic0 name other; ip link set other up
send renamed far0
nic nic0 far1
send "another one with the name" far1
send "the first beside it" far0
ip link del nic0
echo "nobody has the name, the chain is: $(nft list table netdev t | grep -q 'device "\?nic0' && echo listed || echo gone)"
ip link set other down; ip link set other name nic0; ip link set nic0 up
send "the first has the name again" far0
