serve() {
	if [ ! -d repository ]; then
		svnadmin create repository
		printf '[general]\nanon-access = read\n' >repository/conf/svnserve.conf
		content file 32
		svn import -q -m one file "file://$PWD/repository/file"
	fi
	exec svnserve -d --foreground -r "$PWD" --listen-port 3690
}

play() {
	svn cat --non-interactive "svn://$ADDRESS/repository/file" | brake >out
	same out "$SERVER/file"
}
