serve() {
	cat >conf <<-C
		module(load="imtcp")
		template(name="only" type="string" string="%msg%\n")
		input(type="imtcp" port="514")
		action(type="omfile" file="$PWD/log" template="only" asyncWriting="off")
	C
	: >>log
	exec rsyslogd -n -f "$PWD/conf" -i NONE
}

play() {
	{ until [ "$(grep -cs " $RUN " "$SERVER/log")" -ge 20 ]; do sleep 0.05; done; going; } &
	steps " $RUN @" | logger -T -n "$ADDRESS" -P 514 --rfc3164 -t lab
	local n server
	numbered "$RUN @" >want
	for ((n = 0; n < 50; n++)); do
		# Under log and hot the other server may be the one that has all.
		for server in "$SERVER" "${SERVER%1}2"; do
			{ grep -s " $RUN " "$server/log" || :; } | sed 's/^ *//' >got
			! cmp -s got want || return 0
		done
		sleep 0.1
	done
	exit 3
}
