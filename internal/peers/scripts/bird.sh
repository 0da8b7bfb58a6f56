serve() {
	cat >conf <<-C
		router id 10.20.0.11;
		protocol device { }
		protocol static { ipv4; route 192.0.2.0/24 blackhole; }
		protocol bgp peer1 { local as 65002; neighbor 203.0.113.100 as 65001; multihop; passive; hold time 240; ipv4 { import all; export all; }; }
	C
	exec bird -f -c conf -s sock -P pid
}

play() {
	local since
	cat >conf <<-C
		router id 203.0.113.100;
		protocol device { }
		protocol bgp peer1 { local 203.0.113.100 port 17${ADDRESS##*.} as 65001; neighbor $ADDRESS as 65002; multihop; hold time 240; connect delay time 1; error wait time 1, 1;
			ipv4 { import all; export all; }; }
	C
	bird -f -c conf -s sock -P pid >log 2>&1 &
	trap 'birdc -s sock down >/dev/null' EXIT
	until birdc -s sock show protocols 2>/dev/null | grep -q Established; do sleep 0.1; done
	since=$(since)
	going
	until over; do sleep 0.05; done
	sleep 1
	birdc -s sock show route 192.0.2.0/24 >routes
	# BIRD's "since" moves by some microseconds.
	if [ "$(since)" -gt $((since + 1)) ]; then
		birdc -s sock show protocols all peer1 | grep 'Last error' >&2 || :
		echo 'session was down' >&2
		exit 1
	fi
	grep -q 192.0.2.0/24 routes || exit 3
}

since() { date -d "$(birdc -s sock show protocols | awk '$1 == "peer1" {print $5}')" +%s; }
