#!/usr/bin/env bash
# How many bytes does TCP_INFO say were acknowledged and received (tcpi_bytes_acked, tcpi_bytes_received; `ss -ti`)?
# Version: Linux 6.18; RFC 4898: tcpEStatsAppHCThruOctetsAcked and ...Received, octets of the application.
# Guess: those of the application, at both ends alike.
# Seen: what is acknowledged has one more for our SYN and one more for our FIN; what is received has one more for the peer's FIN, and none
#       for its SYN. So the sender's figure and the receiver's of one stream of 10 bytes are 11 and 10, and at its end 12 and 11.
set -euo pipefail
got=$(python3 - <<'PY'
import socket, struct, time
l = socket.create_server(("127.0.0.1", 0))
sender = socket.create_connection(l.getsockname())
receiver, _ = l.accept()

def figures(until):
    for _ in range(100):
        acked = struct.unpack_from("Q", sender.getsockopt(socket.IPPROTO_TCP, 11, 256), 120)[0]
        received = struct.unpack_from("Q", receiver.getsockopt(socket.IPPROTO_TCP, 11, 256), 128)[0]
        if acked == until:
            break
        time.sleep(0.05)
    return f"acknowledged {acked}, received {received}"

print("nothing sent:", figures(1))
sender.send(b"0123456789")
print("10 bytes sent:", figures(11))
sender.shutdown(socket.SHUT_WR)
print("and the FIN:", figures(12))
PY
)
want="nothing sent: acknowledged 1, received 0
10 bytes sent: acknowledged 11, received 10
and the FIN: acknowledged 12, received 11"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
