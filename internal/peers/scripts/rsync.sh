play() {
	mkdir copy
	hold copy 1000000 rsync -a "rsync://$ADDRESS/files/file" copy
	same copy/file "$SERVER/www/file"
}
