serve() {
	if [ ! -d repository ]; then
		git init -q repository
		content repository/file 32
		export GIT_AUTHOR_DATE='2026-01-02T03:04:05Z' GIT_COMMITTER_DATE='2026-01-02T03:04:05Z'
		git -C repository add file
		git -C repository -c user.name=lab -c user.email=lab@lockstep.test commit -q -m one
		git -C repository config pack.threads 1
	fi
	exec git daemon --base-path="$PWD" --export-all --reuseaddr --listen=0.0.0.0 --port=9418
}

play() {
	hold copy 1000000 git clone -q "git://$ADDRESS/repository" copy
	git -C copy fsck
	same copy/file "$SERVER/repository/file"
}
