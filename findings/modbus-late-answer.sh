#!/usr/bin/env bash
# A Modbus/TCP answer comes once after the client's response time-out (a server that paused, or a gateway's takeover). What then?
# Version: libmodbus 3.1.6-2.1+deb12u1 (Debian 12), every mode of modbus_set_error_recovery.
# Guess: the late answer is skipped by its transaction number, or the recovery modes close the connection or flush it.
# Seen: whatever the mode, all reads after that one fail with "Invalid data", for as long as the connection lasts: each gets the answer to
#       the one before. The server answers all of them rightly. Only closing and connecting again by hand ends it.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (apt-get)"; exit 2; }
dir=$(mktemp -d); trap 'kill $server 2>/dev/null || true; rm -rf "$dir"' EXIT; cd "$dir"; server=
(chmod 777 . && apt-get download -q libmodbus5=3.1.6-2.1+deb12u1 libmodbus-dev=3.1.6-2.1+deb12u1 && for d in *.deb; do dpkg -x "$d" root || exit 1; done) >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
cat >server.py <<'P'
# Answers "read holding register N" with N; the second answer of a connection comes 1.5 s late.
import socket, struct, threading, time
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
def serve(c):
    n = 0
    while len(b := c.recv(12, socket.MSG_WAITALL)) == 12:
        n += 1
        if n == 2:
            time.sleep(1.5)
        c.sendall(b[:4] + struct.pack(">HBBB", 5, b[6], 3, 2) + b[8:10])
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
P
cat >client.c <<'C'
#include <modbus/modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv) {
	modbus_t *m = modbus_new_tcp("127.0.0.1", atoi(argv[1]));
	int right = 0, failed = 0, wrong = 0;
	modbus_set_response_timeout(m, 0, 500000);
	modbus_set_error_recovery(m, atoi(argv[2]));
	if (modbus_connect(m))
		return 1;
	for (int i = 1; i <= 2; i++) { /* the first is right, the second late */
		uint16_t v;
		modbus_read_registers(m, i, 1, &v);
	}
	sleep(2); /* the late answer has come */
	for (int i = 3; i <= 12; i++) {
		uint16_t v = 0;
		if (modbus_read_registers(m, i, 1, &v) < 0)
			failed++;
		else if (v == i)
			right++;
		else
			wrong++;
	}
	printf("recovery mode %s: of ten later reads right %d, failed %d, wrong %d\n", argv[2], right, failed, wrong);
	return argc != 3;
}
C
gcc -Iroot/usr/include client.c root/usr/lib/*/libmodbus.so.5.* -o client
python3 server.py >port & server=$!
until [ -s port ]; do sleep 0.1; done
got=$(for mode in 0 1 2 3; do LD_LIBRARY_PATH=$(echo root/usr/lib/*-linux-gnu) ./client "$(cat port)" $mode; done)
echo "$got"
want=$(for mode in 0 1 2 3; do echo "recovery mode $mode: of ten later reads right 0, failed 10, wrong 0"; done)
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
