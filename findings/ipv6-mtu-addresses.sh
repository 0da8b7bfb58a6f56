#!/usr/bin/env bash
# A NIC's MTU is lowered to 1000 for a moment and raised again: what has become of its addresses?
# Version: Linux 6.18 (addrconf_notify), iproute2 6.1.0.
# Guess: IPv6 does not work below 1280 (RFC 8200, section 5), and does again after it, as IPv4, which has noticed nothing.
# Seen: the kernel has removed IPv6 from the NIC, with every address that was configured and every route by it; of these only the
#       link-local address comes back. Nothing is said, and the NIC was up all the time.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (a network namespace of its own)"; exit 2; }
if [ "${1:-}" != inside ]; then
  got=$(unshare -n bash "$0" inside)
  want="before: 10.1.0.1/24 fd01::1/64 link-local route
meanwhile: 10.1.0.1/24
after: 10.1.0.1/24 link-local"
  echo "$got"
  [ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
  exit 0
fi
ip link add near type veth peer name far; ip link set near up; ip link set far up
ip addr add 10.1.0.1/24 dev near; ip addr add fd01::1/64 dev near nodad; ip route add fd02::/64 via fd01::2
timeout 10 bash -c 'until ip -6 addr show dev near | grep -q "fe80.*link"; do sleep 0.1; done'
say() { echo "$1:" $(ip addr show dev near | grep -oE 'inet6? (10|fd)[^ ]*' | cut -d' ' -f2) $(ip addr show dev near | grep -q 'inet6 fe80' && echo link-local) $(ip -6 route | grep -q fd02 && echo route); }
say before
ip link set near mtu 1000; say meanwhile
ip link set near mtu 1500; say after
