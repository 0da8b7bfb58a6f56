#!/usr/bin/env bash
# `ip route replace` where two routes to one destination stand (by `ip route append`): what is there afterwards?
# Version: iproute2 6.1.0 (Debian 12), Linux 6.18. ip-route(8): "replace: change or add new one".
# Guess: one route, the new one, in IPv4 as in IPv6.
# Seen: in IPv4 the new one stands in the first one's place and the second stays, unused as long as the first is there; in IPv6 `append` has made one
#       route with two next hops of the two, and all of it is replaced. A `del` afterwards uncovers the old route in IPv4, and leaves none in IPv6.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (a network namespace of its own)"; exit 2; }
if [ "${1:-}" != inside ]; then
  got=$(unshare -n bash "$0" inside)
  want="IPv4: appended: 10.1.0.2 10.1.0.3; replaced: 10.1.0.9 10.1.0.3; deleted: 10.1.0.3
IPv6: appended: fd01::2 fd01::3; replaced: fd01::9; deleted:"
  echo "$got"
  [ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
  exit 0
fi
ip link add near type veth peer name far; ip link set near up; ip link set far up
ip addr add 10.1.0.1/24 dev near; ip addr add fd01::1/64 dev near nodad
try() {
  vias() { ip $1 route show $2 | grep -oE 'via [^ ]*' | cut -d' ' -f2 | tr '\n' ' ' | sed 's/ $//'; }
  ip $1 route append $2 via $3"2"; ip $1 route append $2 via $3"3"; a=$(vias $1 $2)
  ip $1 route replace $2 via $3"9"; b=$(vias $1 $2)
  ip $1 route del $2; c=$(vias $1 $2)
  echo "appended: $a; replaced: $b; deleted:${c:+ $c}"
}
echo "IPv4: $(try -4 10.3.0.0/16 10.1.0.)"
echo "IPv6: $(try -6 fd03::/64 fd01::)"
