serve() {
	local bin=/usr/lib/postgresql/15/bin as="setpriv --reuid=postgres --regid=postgres --clear-groups --"
	if [ ! -d data ]; then
		chown postgres .
		$as $bin/initdb -D data -A trust --no-locale -E UTF8 -N >/dev/null
		echo 'host all all all trust' >>data/pg_hba.conf
	fi
	rm -f data/postmaster.pid
	exec $as $bin/postgres -D data -c listen_addresses='*' -c unix_socket_directories= -c fsync=off
}

play() {
	answered out 20
	{ echo 'create temporary table t (n int);'; steps 'insert into t values (@); select count(*), max(n) from t;'; } |
		psql -h "$ADDRESS" -U postgres -qAtX -F ' ' -v ON_ERROR_STOP=1 >out
	numbered '@ @' >want
	same out want
}
