# What the scripts of all peers have in common. Each has serve, which prepares a server in the present directory
# and becomes it, and play, which uses it at $ADDRESS from another host and ends with status 0 only if all was as it should be.
# A play says that it is in the middle of something (going), and goes on until the fault is over ($STOP is there).
set -eu -o pipefail
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin:/usr/local/sbin

going() { : >"$HERE/going"; }
over() { [ -e "$STOP" ] || [ ! -d "$HERE" ]; } # or nobody wants to know any more

# content FILE MIB: bytes that no program makes smaller, the same each time.
content() {
	[ -e "$1" ] || { openssl enc -aes-128-ctr -K 00 -iv 00 -in /dev/zero 2>/dev/null || :; } | head -c "${2}M" >"$1"
	touch -d '2026-01-02 03:04:05' "$1"
}

# brake: passes on what it reads, slowly from 256 KiB on until the fault is over.
brake() {
	head -c 262144
	going
	until over; do head -c 16384; sleep 0.1; done
	cat
}

# hold PATH BYTES COMMAND...: runs it, and stops it once so much is at PATH, until the fault is over.
hold() {
	local path=$1 bytes=$2 pid
	shift 2
	setsid "$@" &
	pid=$!
	while kill -0 $pid 2>/dev/null; do
		if [ "$(du -sB1 "$path" 2>/dev/null | cut -f1)0" -ge "${bytes}0" ] && kill -STOP -- -$pid; then
			going
			until over; do sleep 0.05; done
			kill -CONT -- -$pid
			break
		fi
		sleep 0.02
	done
	wait $pid
}

# steps LINE: writes it every 50 ms, with its number instead of @, and 20 times more when the fault is over.
steps() {
	local n=0 more=20
	while [ $more -gt 0 ]; do
		n=$((n + 1))
		printf '%s\n' "${1//@/$n}"
		sleep 0.05
		! over || more=$((more - 1))
	done
	echo $n >steps
}

# numbered LINE: what should have come of steps.
numbered() {
	local n last
	last=$(cat steps)
	for ((n = 1; n <= last; n++)); do printf '%s\n' "${1//@/$n}"; done
}

# answered FILE LINES: what follows is in the middle of something once so many lines are there.
answered() {
	: >"$1"
	{ until [ "$(wc -l <"$1")" -ge "$2" ]; do sleep 0.05; done; going; } &
}

# reached FILE LINES: waits for lines that are still on their way, for 20 s.
reached() {
	local n
	for ((n = 0; n < 200; n++)); do
		[ "$(cat "$1" 2>/dev/null | wc -l)0" -lt "${2}0" ] || return 0
		sleep 0.1
	done
}

# same A B: otherwise it has lost something, and was told that all is well.
same() { cmp -s "$1" "$2" || exit 3; }
