play() {
	curl -q -sS "ftp://$ADDRESS/file" | brake >out
	same out "$SERVER/www/file"
}
