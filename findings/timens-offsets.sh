#!/usr/bin/env bash
# Where does a thread that has made a time namespace write its offsets, and whose clock do they change?
# Version: Linux 6.18, time_namespaces(7).
# Guess: /proc/thread-self/timens_offsets, as uid_map and gid_map, which are in a thread's directory, too; and the thread's own.
# Seen: there is none: the file is in the process's directory only, and is about the thread that the directory's number names, the
#       first. And the clock is that of children only, as of the first one nobody can write any more; who has made the namespace stays.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (a time namespace)"; exit 2; }
got=$(python3 - <<'PY'
import ctypes, errno, os, time
if not os.path.exists("/proc/self/ns/time"):
    raise SystemExit("this kernel has no time namespaces")
for name in "uid_map", "timens_offsets":
    print(name, "of the process:", os.path.exists("/proc/self/" + name), "of the thread:", os.path.exists("/proc/thread-self/" + name))
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x80):  # CLONE_NEWTIME
    raise SystemExit("unshare: " + os.strerror(ctypes.get_errno()))

def write(seconds):
    try:
        with open("/proc/self/timens_offsets", "w") as f:
            f.write(f"monotonic {seconds} 0\n")
        return "taken"
    except OSError as e:
        return errno.errorcode[e.errno]

print("before a child:", write(1000000))
before = time.monotonic()
r, w = os.pipe()
if os.fork() == 0:
    os.write(w, str(time.monotonic()).encode())
    os._exit(0)
os.wait()
child = float(os.read(r, 100)) - before
print("the child's clock is ahead:", child > 900000, "the maker's:", time.monotonic() - before > 900000)
print("after it:", write(5))
PY
) || { echo "$got"; exit 2; }
want="uid_map of the process: True of the thread: True
timens_offsets of the process: True of the thread: False
before a child: taken
the child's clock is ahead: True the maker's: False
after it: EACCES"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
