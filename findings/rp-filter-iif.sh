#!/usr/bin/env bash
# Which policy rules does the strict reverse path filter of a NIC ask for the way back?
# Version: Linux 6.18 (fib_validate_source), iproute2 6.1.0 (`ip route get ... iif` asks as a packet would).
# Guess: those of the interface that the packet has come by: with a rule `iif front` the table of that rule. (ip-rule(8): "iif NAME: select the
#       incoming device to match".)
# Seen: those of the interface by which the packet would go on: the way back is looked up as if the answer had come in there. A rule for what
#       comes from the back network makes the filter of the front NIC refuse, or let pass, what comes from the front; the front's
#       own rule makes no difference.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (a network namespace of its own)"; exit 2; }
if [ "${1:-}" != inside ]; then
  got=$(unshare -n bash "$0" inside)
  want="no rule: forwarded
a rule for what comes by back says that the way is by back: refused
the main table says so: refused
a rule for what comes by front says that the way is by front: refused
the same rule for what comes by back: forwarded"
  echo "$got"
  [ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
  exit 0
fi
echo 1 >/proc/sys/net/ipv4/ip_forward
for nic in front back; do ip link add $nic type veth peer name $nic-far; ip link set $nic up; ip link set $nic-far up; done
ip addr add 10.1.0.1/24 dev front; ip addr add 10.2.0.1/24 dev back
echo 1 >/proc/sys/net/ipv4/conf/front/rp_filter
ip route add default via 10.1.0.9          # clients
ip route add 192.0.2.0/24 via 10.2.0.9     # servers
# A client's packet to a server.
passes() { ip route get 192.0.2.1 from 203.0.113.5 iif front >/dev/null 2>&1 && echo "$1: forwarded" || echo "$1: refused"; }
passes "no rule"
ip route add 203.0.113.0/24 via 10.2.0.8 table 60
ip route add 203.0.113.0/24 via 10.1.0.8 table 61
ip rule add iif back pref 10 lookup 60
passes "a rule for what comes by back says that the way is by back"
ip rule del pref 10; ip route add 203.0.113.0/24 via 10.2.0.8
passes "the main table says so"
ip rule add iif front pref 10 lookup 61
passes "a rule for what comes by front says that the way is by front"
ip rule del pref 10; ip rule add iif back pref 10 lookup 61
passes "the same rule for what comes by back"
