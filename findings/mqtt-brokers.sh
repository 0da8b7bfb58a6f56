#!/usr/bin/env bash
# Two questions to three MQTT brokers, of which deliveries and their repetitions depend:
# Versions: github.com/mochi-mqtt/server/v2 v2.7.9, npm's aedes 1.2.0, mosquitto 2.0.11-1.2+deb12u2 (Debian 12).
#
# 1. With which quality of service comes a message that matches three subscriptions of one client, of QoS 0, 1 and 2?
# Format: MQTT 3.1.1, [MQTT-3.3.5-1]: the largest of all matching subscriptions; further copies may come for the others.
# Guess: QoS 2, at least once, in whatever order the client subscribed.
# Seen: one copy from each. Only mochi's has QoS 2. mosquitto's has 1 and aedes' 0, in every order of subscribing: with
#       these, one more subscription (to all, with QoS 0) takes the guarantee from those that were there.
#
# 2. Does the DUP flag tell a subscriber, back after a broken connection, which messages it may have got already?
# Format: MQTT 3.1.1, [MQTT-3.3.1-1]: 0 on the first attempt to send a PUBLISH, 1 when it is sent again.
# Guess: all three set it when they send again, and only then.
# Seen: mosquitto does. mochi sets it on the first attempt too, for whatever waited for its client to come back; aedes never sets it. So
#       a client that drops what is marked would lose messages with the one, and is not told of repetitions by the other.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (apt-get)"; exit 2; }
dir=$(mktemp -d); brokers=(); trap 'kill "${brokers[@]}" 2>/dev/null || true; rm -rf "$dir"' EXIT; cd "$dir"
(chmod 777 . && apt-get download -q mosquitto=2.0.11-1.2+deb12u2 libcjson1 libdlt2 libwebsockets17 libev4 libwrap0 && for d in *.deb; do dpkg -x "$d" root || exit 1; done) >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
npm install --ignore-scripts --no-audit --no-fund aedes@1.2.0 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
ports=($(python3 -c 'import socket
s = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*[x.getsockname()[1] for x in s])'))
cat >main.go <<'GO'
package main

import (
	"io"
	"log/slog"
	"os"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
)

func main() {
	s := mqtt.New(&mqtt.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err := s.AddHook(new(auth.AllowHook), nil); err != nil {
		panic(err)
	}
	if err := s.AddListener(listeners.NewTCP(listeners.Config{ID: "tcp", Address: os.Args[1]})); err != nil {
		panic(err)
	}
	if err := s.Serve(); err != nil {
		panic(err)
	}
	select {}
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/mochi-mqtt/server/v2@v2.7.9 github.com/mochi-mqtt/server/v2/hooks/auth@v2.7.9 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
go build -o mochi .
./mochi "127.0.0.1:${ports[0]}" & brokers+=($!)
cat >aedes.mjs <<'JS'
import net from 'net';
import {Aedes} from 'aedes';
const broker = await Aedes.createBroker();
net.createServer(broker.handle).listen(+process.argv[2], '127.0.0.1');
JS
node aedes.mjs "${ports[1]}" & brokers+=($!)
printf 'listener %s 127.0.0.1\nallow_anonymous true\nuser root\n' "${ports[2]}" >mosquitto.conf
LD_LIBRARY_PATH=$(echo root/usr/lib/*-linux-gnu) root/usr/sbin/mosquitto -c mosquitto.conf >log 2>&1 & brokers+=($!)
for p in "${ports[@]}"; do timeout 30 bash -c "until (exec 4<>/dev/tcp/127.0.0.1/$p) 2>/dev/null; do sleep 0.1; done"; done
cat >probe.py <<'P'
import socket, struct, sys
PORT, NAME = int(sys.argv[1]), sys.argv[2]

def text(s):
    return struct.pack(">H", len(s)) + s.encode()

class Client:  # MQTT 3.1.1, packets shorter than 128 octets
    def __init__(self, name, clean=True):
        self.c = socket.create_connection(("127.0.0.1", PORT), timeout=10)
        self.send(0x10, text("MQTT") + bytes([4, 2 if clean else 0, 0, 60]) + text(name))
        assert self.packet()[0] == 0x20
    def send(self, kind, body):
        self.c.sendall(bytes([kind, len(body)]) + body)
    def packet(self):
        head = self.c.recv(2, socket.MSG_WAITALL)
        return head[0], self.c.recv(head[1], socket.MSG_WAITALL) if head[1] else b""
    def subscribe(self, topic, qos, number=1):
        self.send(0x82, struct.pack(">H", number) + text(topic) + bytes([qos]))
        assert self.packet()[0] == 0x90
    def publish(self, topic, message, qos):
        self.send(0x30 | qos << 1, text(topic) + struct.pack(">H", 7) + message)
        assert self.packet()[0] == (0x40 if qos == 1 else 0x50)
        if qos == 2:
            self.send(0x62, struct.pack(">H", 7))
            assert self.packet()[0] == 0x70

def overlap():
    topics = {0: "a/#", 1: "a/b", 2: "+/b"}
    for order in (0, 1, 2), (2, 1, 0), (1, 2, 0):
        reader = Client("reader")
        for number, qos in enumerate(order):
            reader.subscribe(topics[qos], qos, number + 1)
        Client("writer").publish("a/b", b"x", 2)
        got = []
        reader.c.settimeout(1.5)
        try:
            while True:
                kind, _ = reader.packet()
                if kind >> 4 == 3:
                    got.append(kind >> 1 & 3)
        except OSError:
            pass
        print(f"{NAME}, subscribed {order}: QoS {got}")
        reader.c.close()

def redelivery():
    Client("reader", clean=False).subscribe("t", 1)  # and is gone: the object's socket is closed
    for m in b"1", b"2":
        Client("writer").publish("t", m, 1)
    for attempt in "first", "second":  # the reader acknowledges nothing
        reader = Client("reader", clean=False)
        flags = [reader.packet()[0] >> 3 & 1 for _ in range(2)]
        print(f"{NAME}, {attempt} attempt: DUP of two messages {flags}")
        reader.c.close()

overlap() if sys.argv[3] == "overlap" else redelivery()
P
ask() { local i=0; for name in mochi aedes mosquitto; do python3 probe.py "${ports[$i]}" $name "$1"; i=$((i + 1)); done; }
got=$(ask overlap; ask redelivery)
want="mochi, subscribed (0, 1, 2): QoS [2]
mochi, subscribed (2, 1, 0): QoS [2]
mochi, subscribed (1, 2, 0): QoS [2]
aedes, subscribed (0, 1, 2): QoS [0]
aedes, subscribed (2, 1, 0): QoS [0]
aedes, subscribed (1, 2, 0): QoS [0]
mosquitto, subscribed (0, 1, 2): QoS [1]
mosquitto, subscribed (2, 1, 0): QoS [1]
mosquitto, subscribed (1, 2, 0): QoS [1]
mochi, first attempt: DUP of two messages [1, 1]
mochi, second attempt: DUP of two messages [1, 1]
aedes, first attempt: DUP of two messages [0, 0]
aedes, second attempt: DUP of two messages [0, 0]
mosquitto, first attempt: DUP of two messages [0, 0]
mosquitto, second attempt: DUP of two messages [1, 1]"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
