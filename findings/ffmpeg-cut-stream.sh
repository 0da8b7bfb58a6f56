#!/usr/bin/env bash
# A server's connection is reset in the middle of a file: what does ffmpeg's exit status say?
# Version: ffmpeg 5.1.9 (Debian 12, 7:5.1.9-0+deb12u1), ffprobe of it, curl 7.88.1.
# Guess: 1, as curl's 56 (reset) and 18 (less than announced).
# Seen: 0, though the answer had a Content-Length, for what it writes as well as for `-f null`; the error is a line of its log. So is what it writes half a file
#       that plays. With -xerror it is 1. ffprobe, which needs the beginning only, says 0 and the whole file's length.
set -euo pipefail
for tool in ffmpeg ffprobe curl python3; do command -v $tool >/dev/null || { echo "$tool is not installed"; exit 2; }; done
ffmpeg -version | grep -q "^ffmpeg version 5\.1" || { echo "another version of ffmpeg"; exit 2; }
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
got=$(python3 - <<'PY'
import fcntl, socket, struct, subprocess, threading, time

def run(cmd):
    return subprocess.run(cmd.split(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120, text=True)

run("ffmpeg -v error -f lavfi -i sine=d=20 -f wav whole.wav").check_returncode()
whole = open("whole.wav", "rb").read()

def serve(reset):
    l = socket.create_server(("127.0.0.1", 0))

    def one(c):
        try:
            c.recv(65536)
            c.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: audio/wav\r\nContent-Length: %d\r\n\r\n" % len(whole) + whole[:len(whole) // 2])
            if reset:
                while struct.unpack("i", fcntl.ioctl(c, 0x5411, bytes(4)))[0]:  # SIOCOUTQ: until all has arrived
                    time.sleep(0.01)
                time.sleep(1)  # and was read
                c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:  # it has seen enough
            pass
        c.close()

    def each():
        while True:
            threading.Thread(target=one, args=(l.accept()[0],), daemon=True).start()

    threading.Thread(target=each, daemon=True).start()
    return "http://127.0.0.1:%d/x.wav" % l.getsockname()[1]

for how in "reset", "end":
    url = serve(how == "reset")
    w = run(f"ffmpeg -v error -y -i {url} -c copy out.wav")
    n = run(f"ffmpeg -v error -i {url} -f null -")
    x = run(f"ffmpeg -v error -xerror -y -i {url} -c copy out2.wav")
    p = run(f"ffprobe -v error -show_entries format=duration -of csv=p=0 {url}")
    c = run(f"curl -s -o /dev/null {url}")
    d = run("ffprobe -v error -show_entries format=duration -of csv=p=0 out.wav")
    print(f"{how}: ffmpeg {w.returncode} (wrote {float(d.stdout):.0f} s of 20), null {n.returncode}, -xerror {x.returncode}, ffprobe {p.returncode} ({float(p.stdout):.0f} s), curl {c.returncode}")
PY
)
want="reset: ffmpeg 0 (wrote 10 s of 20), null 0, -xerror 1, ffprobe 0 (20 s), curl 56
end: ffmpeg 0 (wrote 10 s of 20), null 0, -xerror 1, ffprobe 0 (20 s), curl 18"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
