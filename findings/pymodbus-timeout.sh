#!/usr/bin/env bash
# May a Modbus client wait for less than a second?
# Version: python3-pymodbus 3.0.0-7 (Debian 12), ModbusTcpClient(timeout=...).
# Guess: the time-out is a number of seconds like any other in Python, fractions included.
# Seen: it is cut to whole seconds. 0.9 becomes 0, which makes the socket non-blocking, and not one connection to a listening
#       server comes about (EINPROGRESS taken for a failure); 1.9 waits for 1 s.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (apt-get)"; exit 2; }
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
(chmod 777 . && apt-get download -q python3-pymodbus=3.0.0-7 python3-serial-asyncio python3-serial python3-six && for d in *.deb; do dpkg -x "$d" root || exit 1; done) >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
cat >main.py <<'P'
import logging, socket, sys
sys.path.insert(0, "root/usr/lib/python3/dist-packages")
from pymodbus.client import ModbusTcpClient
logging.disable(logging.CRITICAL)
listener = socket.create_server(("127.0.0.1", 0))
for timeout in 0.9, 1.0, 1.9:
    c = ModbusTcpClient("127.0.0.1", port=listener.getsockname()[1], timeout=timeout)
    print(f"timeout {timeout}: waits {c.params.timeout} s, connects {bool(c.connect())}")
    c.close()
P
got=$(/usr/bin/python3 main.py)
echo "$got"
want="timeout 0.9: waits 0 s, connects False
timeout 1.0: waits 1 s, connects True
timeout 1.9: waits 1 s, connects True"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
