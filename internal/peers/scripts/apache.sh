play() {
	wget -q --tries=1 -O - "http://$ADDRESS:81/file" | brake >out || { echo "wget has failed" >&2; exit 1; }
	same out "$SERVER/www/file"
}
