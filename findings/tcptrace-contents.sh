#!/usr/bin/env bash
# Are the bytes that tcptrace extracts from a capture those of the connection?
# Version: tcptrace 6.6.7-6+b1 (Debian 12), -e; compared with tcpflow 1.6.1-2+b1. Format: RFC 9293 section 3.8.4 (a keep-alive may carry
#       one octet that was sent before, of any value), section 3.4 (sequence numbers wrap).
# Guess: yes, from small valid captures without losses.
# Seen: two times no. The octet of a keep-alive probe replaces the last octet of the data. What is sent after the sequence
#       numbers have passed zero is missing, without a word. tcpflow is right in all.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (apt-get)"; exit 2; }
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
(chmod 777 . && apt-get download -q tcptrace=6.6.7-6+b1 tcpflow=1.6.1-2+b1 libhttp-parser2.9 libpcap0.8 && for d in *.deb; do dpkg -x "$d" root || exit 1; done) >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
export LD_LIBRARY_PATH=$(echo root/usr/lib/*-linux-gnu | sed "s|^|$dir/|")
cat >make.py <<'P'
import struct

def checksum(b):
    b += b"\0" * (len(b) % 2)
    s = sum(struct.unpack(">%dH" % (len(b) // 2), b))
    while s >> 16:
        s = (s & 0xFFFF) + (s >> 16)
    return ~s & 0xFFFF

number = 0
def packet(src, dst, sport, dport, seq, ack, flags, data=b""):
    global number
    number += 1
    tcp = struct.pack(">HHIIBBHHH", sport, dport, seq % 2**32, ack % 2**32, 5 << 4, flags, 65000, 0, 0) + data
    pseudo = src + dst + struct.pack(">BBH", 0, 6, len(tcp))
    tcp = tcp[:16] + struct.pack(">H", checksum(pseudo + tcp)) + tcp[18:]
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), number, 0x4000, 64, 6, 0) + src + dst
    ip = ip[:10] + struct.pack(">H", checksum(ip)) + ip[12:]
    return b"\2\0\0\0\0\1\2\0\0\0\0\2\x08\0" + ip + tcp

def capture(name, client, server, keepalive=False):
    a, b = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])
    C = lambda s, k, f, d=b"": packet(a, b, 40000, 7000, client + s, server + k if f & 16 else 0, f, d)
    S = lambda s, k, f, d=b"": packet(b, a, 7000, 40000, server + s, client + k, f, d)
    packets = [C(0, 0, 2), S(0, 1, 18), C(1, 1, 16), C(1, 1, 24, b"request\n"), S(1, 9, 24, b"answer\n")]
    if keepalive:
        packets += [C(9, 8, 16), C(8, 8, 16, b"\0"), S(8, 9, 16)]
    packets += [C(9, 8, 16), S(8, 9, 24, b"more\n"), C(9, 13, 17), S(13, 10, 17), C(10, 14, 16)]
    with open(name, "wb") as f:
        f.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for i, p in enumerate(packets):
            f.write(struct.pack("<IIII", 1700000000, 1000 * i, len(p), len(p)) + p)

capture("plain", 1000, 5000)
capture("keepalive", 1000, 5000, True)
capture("wrap", 1000, 2**32 - 4)
P
python3 make.py
got=$(for c in plain keepalive wrap; do
  for tool in tcptrace tcpflow; do
    mkdir $c-$tool; cd $c-$tool
    if [ $tool = tcptrace ]; then ../root/usr/bin/tcptrace -n -e ../$c >/dev/null 2>&1; else ../root/usr/bin/tcpflow -r ../$c >/dev/null 2>&1; rm -f report.xml; fi
    python3 -c 'import glob, sys; print(*sys.argv[1:], *sorted((open(f, "rb").read() for f in glob.glob("*")), reverse=True))' $c, $tool:
    cd ..
  done
done)
want="plain, tcptrace: b'request\n' b'answer\nmore\n'
plain, tcpflow: b'request\n' b'answer\nmore\n'
keepalive, tcptrace: b'request\x00' b'answer\nmore\n'
keepalive, tcpflow: b'request\n' b'answer\nmore\n'
wrap, tcptrace: b'request\n' b'answer\n'
wrap, tcpflow: b'request\n' b'answer\nmore\n'"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
