#!/usr/bin/env bash
# Which congestion control may root make the default of a network namespace?
# Version: Linux 6.18.
# Guess: any that is available, as of the first namespace: root has CAP_NET_ADMIN over both. (tcp(7): tcp_allowed_congestion_control is for
#       processes without it.)
# Seen: for a namespace's default that list binds root, too: EPERM. A socket of the same process, in the same namespace, may have the
#       algorithm all the same.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (a network namespace of its own)"; exit 2; }
cd /proc/sys/net/ipv4
read -r allowed <tcp_allowed_congestion_control
other=
for a in $(cat tcp_available_congestion_control); do
  case " $allowed " in *" $a "*) ;; *) other=$a ;; esac
done
[ -n "$other" ] || { echo "all that are available are allowed here: nothing can be seen (modprobe tcp_vegas, say)"; exit 2; }
got=$(unshare --net python3 - "$other" <<'P'
import errno, socket, sys
name = sys.argv[1]
def default():
    with open("/proc/sys/net/ipv4/tcp_congestion_control", "w") as f:
        f.write(name)
def ofSocket():
    s = socket.socket()
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
    assert s.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode() == name
for what, set in [("the namespace's default", default), ("a socket in it", ofSocket)]:
    try:
        set()
        print(what, "is set")
    except OSError as e:
        print(what, errno.errorcode[e.errno])
P
)
want="the namespace's default EPERM
a socket in it is set"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
