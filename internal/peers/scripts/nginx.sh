play() {
	curl -q -sS --fail "http://$ADDRESS/file" | brake >out
	same out "$SERVER/www/file"
}

# An upload.
play_put() {
	brake <"$SERVER/www/file" | curl -q -sS --fail -T - "http://$ADDRESS/up/$RUN"
	# Under log and hot it may be the other server that has it.
	cmp -s "$SERVER/up/$RUN" "$SERVER/www/file" || same "${SERVER%1}2/up/$RUN" "$SERVER/www/file"
}
