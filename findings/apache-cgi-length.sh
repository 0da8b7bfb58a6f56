#!/usr/bin/env bash
# A CGI program says how long its answer is (RFC 3875 section 6.3 lets it send any HTTP field). What frames the answer that Apache sends?
# Version: Debian 12's apache2-bin 2.4.71-1~deb12u1 (mod_cgid).
# Guess: the program's Content-Length, each time.
# Seen: it is dropped, and the answer comes in chunks unless Apache sees the program's end together with its first bytes (then it counts
#       them itself: two servers with one program differ by chance). `SetEnv ap_trust_cgilike_cl yes` brings it back.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (a network namespace of its own)"; exit 2; }
if [ "${1:-}" != inside ]; then
  dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
  (cd "$dir" && chmod 755 . && apt-get download -q apache2-bin=2.4.71-1~deb12u1 libapr1 libaprutil1 liblua5.3-0 libnghttp2-14 libjansson4 libbrotli1 libpcre2-8-0 &&
    for d in *.deb; do dpkg -x "$d" root || exit 1; done) >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
  cp "$0" "$dir/me.sh"; export dir
  got=$(unshare -n -p -f --mount-proc bash "$dir/me.sh" inside)
  echo "$got"
  want="Transfer-Encoding
trusted: Content-Length"
  [ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
  exit 0
fi
cd "$dir"; mods=$dir/root/usr/lib/apache2/modules
export LD_LIBRARY_PATH=$(echo "$dir"/root/usr/lib/*-linux-gnu "$dir"/root/lib/*-linux-gnu | tr " " :)
ip link set lo up
mkdir -p cgi trusted
# The field, two bytes, and the end half a second later.
printf '#!/bin/sh\nprintf "Content-Type: text/plain\\nContent-Length: 2\\n\\nok"\nsleep 0.5\n' >cgi/later
cp cgi/later trusted/later; chmod 755 cgi/* trusted/*
cat >conf <<C
ServerRoot $dir
DefaultRuntimeDir $dir
PidFile $dir/pid
ServerName localhost
Listen 127.0.0.1:8081
User www-data
Group www-data
ErrorLog $dir/log
Mutex file:$dir default
LoadModule mpm_event_module $mods/mod_mpm_event.so
LoadModule authz_core_module $mods/mod_authz_core.so
LoadModule alias_module $mods/mod_alias.so
LoadModule env_module $mods/mod_env.so
LoadModule cgid_module $mods/mod_cgid.so
ScriptSock $dir/sock
ScriptAlias /cgi/ $dir/cgi/
ScriptAlias /trusted/ $dir/trusted/
<Location /trusted/>
  SetEnv ap_trust_cgilike_cl yes
</Location>
C
root/usr/sbin/apache2 -f "$dir/conf" -DFOREGROUND >/dev/null 2>&1 &
trap 'kill $! 2>/dev/null || true; wait' EXIT
cat >ask.py <<'P'
import http.client, sys, time
for _ in range(100):
    try:
        c = http.client.HTTPConnection("127.0.0.1", 8081, timeout=30)
        c.request("GET", sys.argv[1])
        break
    except OSError:
        time.sleep(0.1)
r = c.getresponse()
assert r.status == 200 and r.read() == b"ok", r.status
print(*[name for name in ("Content-Length", "Transfer-Encoding") if r.getheader(name)])
P
echo "$(python3 ask.py /cgi/later)"
echo "trusted: $(python3 ask.py /trusted/later)"
