#!/usr/bin/env bash
# What does tcprewrite change in a capture that it is only to copy?
# Version: tcpreplay 4.4.3-1 (Debian 12), tcprewrite with no option but the files.
# Guess: nothing; it changes what it is asked to.
# Seen: of IPv4 nothing. Of every IPv6 packet both Ethernet addresses, though all the IPv6 addresses are unicast: they become
#       multicast ones, 33:33 and the last four octets of the IPv6 address, the source's as well, which no frame may
#       have as its source. --portmap does not reach a TCP header behind an
#       IPv6 extension header, and says nothing.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (apt-get)"; exit 2; }
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
(chmod 777 . && apt-get download -q tcpreplay=4.4.3-1 libdumbnet1 libpcap0.8 && for d in *.deb; do dpkg -x "$d" root || exit 1; done) >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
export LD_LIBRARY_PATH=$(echo root/usr/lib/*-linux-gnu)
cat >capture.py <<'P'
import ipaddress, struct, sys

def checksum(b):
    s = sum(struct.unpack(">%dH" % (len(b) // 2), b))
    while s >> 16:
        s = (s & 0xFFFF) + (s >> 16)
    return ~s & 0xFFFF

def frame(version, header=False):  # a SYN from port 40000 to 7000
    tcp = struct.pack(">HHIIBBHHH", 40000, 7000, 1000, 0, 5 << 4, 2, 65000, 0, 0)
    if version == 4:
        a, b = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])
        tcp = tcp[:16] + struct.pack(">H", checksum(a + b + struct.pack(">HH", 6, len(tcp)) + tcp)) + tcp[18:]
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0x4000, 64, 6, 0) + a + b
        ip, kind = ip[:10] + struct.pack(">H", checksum(ip)) + ip[12:], 0x0800
    else:
        a, b = (ipaddress.ip_address(x).packed for x in ("2001:db8::1:a", "2001:db8::1:b"))
        tcp = tcp[:16] + struct.pack(">H", checksum(a + b + struct.pack(">II", len(tcp), 6) + tcp)) + tcp[18:]
        if header:
            tcp = bytes([6, 0, 1, 4, 0, 0, 0, 0]) + tcp  # hop-by-hop options: 6 octets of padding
        ip, kind = struct.pack(">IHBB", 6 << 28, len(tcp), 0 if header else 6, 64) + a + b, 0x86DD
    return bytes.fromhex("020000000002020000000001") + struct.pack(">H", kind) + ip + tcp

cases = {"IPv4": frame(4), "IPv6": frame(6), "IPv6 and hop-by-hop": frame(6, True)}
if sys.argv[1] == "write":
    with open("in", "wb") as f:
        f.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for p in cases.values():
            f.write(struct.pack("<IIII", 1700000000, 0, len(p), len(p)) + p)
else:
    b = open(sys.argv[1], "rb").read()[24:]
    for name, was in cases.items():
        p, b = b[16:16 + len(was)], b[16 + len(was):]
        port = struct.unpack(">H", p[len(p) - 18:len(p) - 16])[0]
        print(f"{sys.argv[1]}, {name}: from {p[6:12].hex(':')} to {p[:6].hex(':')}, port {port}, the rest as it was: {p[12:-18] + p[-16:-4] + p[-2:] == was[12:-18] + was[-16:-4] + was[-2:]}")
P
python3 capture.py write
root/usr/bin/tcprewrite --infile=in --outfile=copied
root/usr/bin/tcprewrite --infile=in --outfile=mapped --portmap=7000:7001
got=$(python3 capture.py copied && python3 capture.py mapped)
want="copied, IPv4: from 02:00:00:00:00:01 to 02:00:00:00:00:02, port 7000, the rest as it was: True
copied, IPv6: from 33:33:00:01:00:0a to 33:33:00:01:00:0b, port 7000, the rest as it was: True
copied, IPv6 and hop-by-hop: from 33:33:00:01:00:0a to 33:33:00:01:00:0b, port 7000, the rest as it was: True
mapped, IPv4: from 02:00:00:00:00:01 to 02:00:00:00:00:02, port 7001, the rest as it was: True
mapped, IPv6: from 33:33:00:01:00:0a to 33:33:00:01:00:0b, port 7001, the rest as it was: True
mapped, IPv6 and hop-by-hop: from 33:33:00:01:00:0a to 33:33:00:01:00:0b, port 7000, the rest as it was: True"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
