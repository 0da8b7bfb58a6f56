#!/usr/bin/env bash
# A packet socket's NIC goes down and up again, and the socket is then bound to another NIC: what does the next read say?
# Version: Linux 6.18, net/packet/af_packet.c; mdlayher/packet 1.2.0 hands it on.
# Guess: it waits for a frame: ENETDOWN (packet(7)) is of a NIC that is down, and of the one that the socket is bound to.
# Seen: ENETDOWN, once, though both NICs are up: it has waited in the socket since, and neither the NIC's return nor binding anew takes
#       it away. The frame that waits behind it comes with the read after that.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (a network namespace of its own)"; exit 2; }
got=$(unshare -n python3 - <<'PY'
import errno, socket, subprocess, time

def ip(args):
    subprocess.check_call(["ip"] + args.split())

for a, b in ("one", "one-far"), ("two", "two-far"):
    ip(f"link add {a} type veth peer name {b}")
    ip(f"link set {a} up")
    ip(f"link set {b} up")
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88b5))
s.bind(("one", 0x88b5))
s.settimeout(5)
ip("link set one down")
ip("link set one up")
s.bind(("two", 0x88b5))
far = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
far.bind(("two-far", 0))
time.sleep(0.5)
far.send(b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5" + bytes(50))
for i in "first", "second":
    try:
        print(i, "read:", len(s.recv(2000)), "bytes")
    except OSError as e:
        print(i, "read:", errno.errorcode.get(e.errno, e))
PY
)
want="first read: ENETDOWN
second read: 64 bytes"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
