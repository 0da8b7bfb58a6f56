serve() {
	printf 'listener 1883 0.0.0.0\nallow_anonymous true\nuser nobody\n' >conf
	exec mosquitto -c conf
}

play() {
	local sub
	mosquitto_pub -h "$ADDRESS" -t "$RUN" -q 1 -r -m 'first'
	mosquitto_sub -h "$ADDRESS" -t "$RUN" -q 1 >got 2>sub-error &
	sub=$!
	reached got 1
	answered_by got
	{ steps @; } | mosquitto_pub -h "$ADDRESS" -t "$RUN" -q 1 -l
	reached got $(($(cat steps) + 1))
	kill $sub
	cat sub-error >&2
	{ echo first; numbered @; } >want
	same got want
}

answered_by() { { until [ "$(wc -l <"$1")" -ge 20 ]; do sleep 0.05; done; going; } & }
