serve() {
	if [ ! -d data ]; then
		mariadb-install-db --no-defaults --user=mysql --datadir="$PWD/data" --skip-test-db >/dev/null
	fi
	exec mariadbd --no-defaults --user=mysql --datadir="$PWD/data" --socket="$PWD/data/sock" --pid-file="$PWD/data/pid" \
		--bind-address=0.0.0.0 --port=3306 --skip-grant-tables --skip-name-resolve
}

play() {
	answered out 20
	{ echo "create database if not exists lab; use lab; create temporary table t (n int);"; steps 'insert into t values (@); select count(*), max(n) from t;'; } |
		mariadb --no-defaults -h "$ADDRESS" -u root -N -B -n >out
	numbered $'@\t@' >want
	same out want
}
