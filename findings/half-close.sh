#!/usr/bin/env bash
# A client says all it has to say, closes its direction (FIN), and reads the answer, which takes a while. Which relays deliver it?
# Versions: Debian 12's simpleproxy 3.5-1+b2, redir 3.3-1, rinetd 0.73-1, sslh 1.20-1+deb12u1, socat 1.7.4.4-2, ncat 7.93+dfsg1-1,
#       systemd-socket-proxyd (252.39-1~deb12u2), nginx's stream (1.22.1-9+deb12u11), haproxy 2.6.12-1+deb12u4.
# Guess: all of them pass the FIN on and deliver; a connection has two directions (RFC 9293 section 3.6), and all these only copy bytes.
# Seen: haproxy does, and nginx with `proxy_half_close on` (off by default). The others end the connection as soon as, or half a
#       second after, the client's direction has ended: the client gets nothing, and an end that looks like a proper one.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (a network namespace of its own)"; exit 2; }
if [ "${1:-}" != inside ]; then
  dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
  (cd "$dir" && chmod 777 . && apt-get download -q simpleproxy=3.5-1+b2 redir=3.3-1 rinetd=0.73-1 sslh=1.20-1+deb12u1 socat=1.7.4.4-2 ncat=7.93+dfsg1-1 \
    systemd=252.39-1~deb12u2 libsystemd-shared=252.39-1~deb12u2 nginx=1.22.1-9+deb12u11 libnginx-mod-stream=1.22.1-9+deb12u11 haproxy=2.6.12-1+deb12u4 \
    libpcre3 libconfig9 liblua5.3-0 libwrap0 && for d in *.deb; do dpkg -x "$d" root || exit 1; done) >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
  cp "$0" "$dir/me.sh"; export dir
  got=$(unshare -n bash "$dir/me.sh" inside)
  echo "$got"
  want="simpleproxy: 0 of 2 pieces, then the end
redir: 0 of 2 pieces, then the end
rinetd: 0 of 2 pieces, then the end
sslh: 0 of 2 pieces, then the end
socat: 0 of 2 pieces, then the end
ncat: 0 of 2 pieces, then the end
systemd-socket-proxyd: 0 of 2 pieces, then the end
nginx: 0 of 2 pieces, then the end
nginx, proxy_half_close on: 2 of 2 pieces, then the end
haproxy: 2 of 2 pieces, then the end"
  [ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
  exit 0
fi
cd "$dir"; bin=$dir/root/usr/bin; sbin=$dir/root/usr/sbin
export LD_LIBRARY_PATH=$(echo "$dir"/root/usr/lib/*-linux-gnu "$dir"/root/lib/*-linux-gnu "$dir"/root/lib/systemd "$dir"/root/usr/lib/*-linux-gnu/systemd | tr " " :)
ip link set lo up
cat >server.py <<'P'
# Reads to the end, waits 2 s, and answers in two pieces, 1 s apart.
import socket, threading, time
listener = socket.create_server(("127.0.0.1", 7000))
def serve(c):
    while c.recv(65536):
        pass
    try:
        for pause in (2, 1):
            time.sleep(pause)
            c.sendall(b"piece\n")
    except OSError:
        pass
    c.close()
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
P
cat >client.py <<'P'
import socket, sys, time
for _ in range(100):
    try:
        c = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=30)
        break
    except OSError:
        time.sleep(0.1)
c.sendall(b"x" * 1000)
c.shutdown(socket.SHUT_WR)
got, end = b"", "the end"
try:
    while b := c.recv(65536):
        got += b
except OSError as e:
    end = type(e).__name__
print(sys.argv[2] + ":", got.count(b"\n"), "of 2 pieces, then", end)
P
cat >activate.py <<'P'
# Hands the program a listening socket, as systemd does.
import os, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
P
printf '127.0.0.1 7003 127.0.0.1 7000\n' >rinetd.conf
printf 'defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\nlisten a\n bind 127.0.0.1:7010\n server s 127.0.0.1:7000\n' >haproxy.conf
cat >nginx.conf <<E
load_module $(find root -name ngx_stream_module.so | head -1 | sed "s|^|$dir/|");
daemon off; pid $dir/nginx.pid; error_log $dir/nginx.log;
events {}
stream {
  server { listen 127.0.0.1:7008; proxy_pass 127.0.0.1:7000; }
  server { listen 127.0.0.1:7009; proxy_pass 127.0.0.1:7000; proxy_half_close on; }
}
E
started=(); trap 'kill "${started[@]}" 2>/dev/null || true' EXIT
start() { "$@" >>log 2>&1 & started+=($!); }
start python3 server.py
timeout 30 bash -c 'until (exec 4<>/dev/tcp/127.0.0.1/7000) 2>/dev/null; do sleep 0.1; done'
start "$bin/simpleproxy" -L 7001 -R 127.0.0.1:7000
start "$bin/redir" -n 127.0.0.1:7002 127.0.0.1:7000
start "$sbin/rinetd" -f -c "$dir/rinetd.conf"
start "$sbin/sslh-select" -f -u root -p 127.0.0.1:7004 --anyprot 127.0.0.1:7000
start "$bin/socat" TCP4-LISTEN:7005,fork,reuseaddr TCP4:127.0.0.1:7000
start "$bin/ncat" -k -l 127.0.0.1 7006 --sh-exec "$bin/ncat 127.0.0.1 7000"
start python3 activate.py 7007 "$dir/root/lib/systemd/systemd-socket-proxyd" 127.0.0.1:7000
start "$sbin/nginx" -p "$dir" -c "$dir/nginx.conf"
start "$sbin/haproxy" -db -f haproxy.conf
n=0; clients=()
for name in simpleproxy redir rinetd sslh socat ncat systemd-socket-proxyd nginx "nginx, proxy_half_close on" haproxy; do
  n=$((n + 1)); python3 client.py $((7000 + n)) "$name" >"answer$n" 2>&1 & clients+=($!)
done
wait "${clients[@]}"
cat answer{1,2,3,4,5,6,7,8,9,10}
