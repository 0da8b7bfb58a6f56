#!/usr/bin/env bash
# A download is resumed, and what is there already is not the file's beginning, or is longer: what do clients say?
# Version: curl 7.88.1, wget 1.21.3, nginx 1.22.1 (Debian 12).
# Guess: curl -C - and wget -c compare the length at least, and end with an error where the server refuses the range (416).
# Seen: 0 throughout, with a wrong file: neither asks with If-Range, and 416 is taken for "all is there" though the answer says the length and what is there is
#       longer. The other way round `curl -f -C -` fails with 22 where the file is whole.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (a network namespace of its own)"; exit 2; }
for tool in curl wget nginx; do command -v $tool >/dev/null || { echo "$tool is not installed"; exit 2; }; done
[ "$(curl --version | cut -d' ' -f2 | head -1)/$(wget --version | cut -d' ' -f3 | head -1)/$(nginx -v 2>&1 | cut -d/ -f2)" = 7.88.1/1.21.3/1.22.1 ] || { echo "other versions"; exit 2; }
if [ "${1:-}" != inside ]; then
  dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; export dir
  got=$(unshare -n bash "$0" inside)
  want="curl: half 0 same, whole 0 same, longer 0 differs, another beginning 0 differs; with -f: whole 22 same
wget: half 0 same, whole 0 same, longer 0 differs, another beginning 0 differs"
  echo "$got"
  [ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
  exit 0
fi
cd "$dir"; chmod 755 .; mkdir www; head -c 100000 /dev/urandom >www/file; chmod -R a+rX www; ip link set lo up
cat >conf <<C
daemon off; pid $dir/pid; error_log $dir/errors;
events {}
http { access_log off; client_body_temp_path $dir/1; proxy_temp_path $dir/2; fastcgi_temp_path $dir/3; uwsgi_temp_path $dir/4; scgi_temp_path $dir/5;
  server { listen 80; root $dir/www; } }
C
nginx -c "$dir/conf" 2>/dev/null & trap 'kill %1; wait' EXIT
timeout 20 bash -c 'until curl -so /dev/null http://127.0.0.1/file; do sleep 0.1; done'
resume() { "${@:2}" http://127.0.0.1/file && s=0 || s=$?; echo "$1 $s $(cmp -s part www/file && echo same || echo differs)"; }
try() {
  head -c 50000 www/file >part; a=$(resume half "$@")
  cp www/file part; b=$(resume whole "$@")
  (cat www/file; echo more) >part; c=$(resume longer "$@")
  head -c 50000 /dev/zero >part; d=$(resume "another beginning" "$@")
  echo "$a, $b, $c, $d"
}
line=$(try curl -s -C - -o part)
cp www/file part; echo "curl: $line; with -f: $(resume whole curl -sf -C - -o part)"
echo "wget: $(try wget -q -c -O part)"
