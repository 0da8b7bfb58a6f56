#!/usr/bin/env bash
# Which tools find a TCP connection whose IPv6 packets have a hop-by-hop or a destination options header?
# Versions: Debian 12's tcpdump 4.99.3-1, tcpflow 1.6.1-2+b1, tcptrace 6.6.7-6+b1. Format: RFC 8200
#       section 4.8; the headers here hold only padding.
# Guess: the tools that are made for TCP find it; tcpdump's filter `tcp` does, or says that it cannot.
# Seen: only tcptrace finds it. `tcp` does not match (`ip6 protochain 6` does), and tcpflow writes no file and says nothing. Without
#       the header all three are right.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (apt-get)"; exit 2; }
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
(chmod 777 . && apt-get download -q tcpdump=4.99.3-1 tcpflow=1.6.1-2+b1 tcptrace=6.6.7-6+b1 libhttp-parser2.9 libpcap0.8 &&
  for d in *.deb; do dpkg -x "$d" root || exit 1; done) >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
export LD_LIBRARY_PATH=$(echo root/usr/lib/*-linux-gnu | sed "s|^|$dir/|"); bin=$dir/root/usr/bin
cat >make.py <<'P'
import ipaddress, struct

def checksum(b):
    b += b"\0" * (len(b) % 2)
    s = sum(struct.unpack(">%dH" % (len(b) // 2), b))
    while s >> 16:
        s = (s & 0xFFFF) + (s >> 16)
    return ~s & 0xFFFF

A, B = (ipaddress.ip_address(x).packed for x in ("2001:db8::1", "2001:db8::2"))
def packet(src, dst, sport, dport, seq, ack, flags, data, header):
    tcp = struct.pack(">HHIIBBHHH", sport, dport, seq, ack, 5 << 4, flags, 65000, 0, 0) + data
    tcp = tcp[:16] + struct.pack(">H", checksum(src + dst + struct.pack(">II", len(tcp), 6) + tcp)) + tcp[18:]
    if header is not None:
        tcp = bytes([6, 0, 1, 4, 0, 0, 0, 0]) + tcp  # next header TCP, 8 octets, PadN of 6
    return b"\2\0\0\0\0\1\2\0\0\0\0\2\x86\xdd" + struct.pack(">IHBB", 6 << 28, len(tcp), 6 if header is None else header, 64) + src + dst + tcp

for name, header in ("plain", None), ("hop-by-hop", 0), ("destination", 60):
    C = lambda s, k, f, d=b"": packet(A, B, 40000, 7000, 1000 + s, 5000 + k if f & 16 else 0, f, d, header)
    S = lambda s, k, f, d=b"": packet(B, A, 7000, 40000, 5000 + s, 1000 + k, f, d, header)
    packets = [C(0, 0, 2), S(0, 1, 18), C(1, 1, 16), C(1, 1, 24, b"request\n"), S(1, 9, 24, b"answer\n"), C(9, 8, 17), S(8, 10, 17), C(10, 9, 16)]
    with open(name, "wb") as f:
        f.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for i, p in enumerate(packets):
            f.write(struct.pack("<IIII", 1700000000, 1000 * i, len(p), len(p)) + p)
P
python3 make.py
got=$(for c in plain hop-by-hop destination; do
  mkdir "$c-flow"; (cd "$c-flow"; "$bin/tcpflow" -r "../$c" >/dev/null 2>&1; rm -f report.xml)
  echo "$c: tcp $("$bin/tcpdump" -nr $c tcp 2>/dev/null | wc -l), protochain $("$bin/tcpdump" -nr $c ip6 protochain 6 2>/dev/null | wc -l)," \
    "tcpflow $(ls "$c-flow" | wc -l) files, tcptrace $("$bin/tcptrace" -n $c 2>/dev/null | grep -c complete || true) connection"
done)
want="plain: tcp 8, protochain 8, tcpflow 2 files, tcptrace 1 connection
hop-by-hop: tcp 0, protochain 8, tcpflow 0 files, tcptrace 1 connection
destination: tcp 0, protochain 8, tcpflow 0 files, tcptrace 1 connection"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
