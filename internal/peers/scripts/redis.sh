serve() { exec redis-server --port 6379 --bind 0.0.0.0 --protected-mode no --save '' --dir "$PWD"; }

play() {
	answered out 20
	steps "incr $RUN" | redis-cli -h "$ADDRESS" >out
	numbered @ >want
	! grep -i error out >&2 || exit 1
	same out want
}
