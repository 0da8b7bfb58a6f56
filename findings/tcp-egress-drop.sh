#!/usr/bin/env bash
# How often does TCP repeat a segment that this host's own packet filter drops?
# Version: Linux 6.18 (TCP_RESOURCE_PROBE_INTERVAL), nftables 1.0.6.
# Guess: wherever on the way out it is dropped, the sender doubles its time-out: about 6 attempts in 7 s.
# Seen: that is so in the output hook. In the egress hook of the NIC, which answers as a full queue does, the segment is tried again every 500 ms,
#       without doubling, for as long as it is dropped. In both cases TCP_INFO counts no retransmission at all.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (network namespaces of its own)"; exit 2; }
if [ "${1:-}" != inside ]; then
  got=$(for hook in output egress; do unshare --net --pid --fork --kill-child --mount-proc bash "$0" inside $hook; done)
  want="output: doubling, retransmissions 0, backs off True
egress: every half second, retransmissions 0, backs off False"
  echo "$got"
  [ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
  exit 0
fi
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
ip link set lo up
unshare --net sleep 60 &
far=$!
until [ "$(readlink /proc/$far/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done 2>/dev/null
ip link add near type veth peer name far netns $far
ip addr add 192.0.2.1/24 dev near; ip link set near up
nsenter -t $far -n sh -c 'ip addr add 192.0.2.2/24 dev far; ip link set far up'
case $2 in
output) chain="type filter hook output priority 0;"; family=inet ;;
egress) chain="type filter hook egress device near priority 0;"; family=netdev ;;
esac
printf 'table %s t {\n chain c {\n  %s\n  tcp dport 99 counter drop\n }\n}\n' $family "$chain" >rules
cat >listen.py <<'P'
import socket, time
listener = socket.create_server(("192.0.2.2", 99))
kept = listener.accept()
time.sleep(60)
P
cat >send.py <<'P'
import json, socket, subprocess, sys, time
for _ in range(100):
    try:
        s = socket.create_connection(("192.0.2.2", 99), 5)
        break
    except OSError:
        time.sleep(0.1)
subprocess.run(["nft", "-f", "rules"], check=True)
s.setblocking(False)
s.send(b"x")
time.sleep(7)
info = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
rules = json.loads(subprocess.run(["nft", "-j", "list", "ruleset"], check=True, capture_output=True).stdout)["nftables"]
n = next(e["counter"]["packets"] for r in rules if "rule" in r for e in r["rule"]["expr"] if "counter" in e)
how = "doubling" if 4 <= n <= 8 else "every half second" if 12 <= n <= 16 else "%d attempts" % n
print("%s: %s, retransmissions %d, backs off %s" % (sys.argv[1], how, info[2], info[4] > 2))
P
nsenter -t $far -n python3 listen.py &
python3 send.py $2
