#!/usr/bin/env bash
# A process asks for a TUN device by the name of one that another process has: what does it get?
# Version: Linux 6.18, drivers/net/tun.c (TUNSETIFF); Documentation/networking/tuntap.rst.
# Guess: EBUSY.
# Seen: that only if both are plain, or with the undocumented IFF_TUN_EXCL. With IFF_MULTI_QUEUE on both the second process joins without an error and gets
#       a share of the packets from then on, so each of the two loses some; with it on one of them the error is EINVAL.
set -euo pipefail
[ "$(id -u)" = 0 ] && [ -c /dev/net/tun ] || { echo "needs root and /dev/net/tun"; exit 2; }
got=$(unshare -n python3 - <<'PY'
import errno, fcntl, os, socket, struct, subprocess, time
TUN, NO_PI, MULTI, EXCL = 0x0001, 0x1000, 0x0100, 0x8000

def ask(name, flags):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", name, TUN | NO_PI | flags))
        return fd, "joined"
    except OSError as e:
        return None, errno.errorcode[e.errno]

plain, _ = ask(b"plain", 0)
print("one queue:", ask(b"plain", 0)[1] + ", with several", ask(b"plain", MULTI)[1])
first, _ = ask(b"many", MULTI)
print("several queues:", ask(b"many", 0)[1] + ", exclusively", ask(b"many", MULTI | EXCL)[1] + ", with several", end=" ")
second, what = ask(b"many", MULTI)
print(what)
subprocess.check_call("ip link set many up && ip addr add 10.9.0.1/24 dev many", shell=True)
flows = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(200)]
for i, s in enumerate(flows):
    s.sendto(b"x", ("10.9.0.%d" % (i + 2), 9))
time.sleep(0.5)

def packets(fd):
    n = 0
    while True:
        try:
            p = os.read(fd, 2000)
        except BlockingIOError:
            return n
        n += p[0] >> 4 == 4 and p[9] == 17

a, b = packets(first), packets(second)
print("of 200 packets both got some:", a > 0 and b > 0, "and together all:", a + b == 200)
PY
)
want="one queue: EBUSY, with several EINVAL
several queues: EINVAL, exclusively EBUSY, with several joined
of 200 packets both got some: True and together all: True"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
