serve() {
	mkdir -p zones db /run/knot
	[ -e zones/zone ] || {
		printf '$ORIGIN lockstep.test.\n@ 60 SOA ns nobody 1 3600 600 86400 60\n@ 60 NS ns\nns 60 A 192.0.2.1\n'
		seq -f 'h%.0f 60 TXT "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"' 100001 160000
	} >zones/zone
	cat >conf <<-C
		server:
		  listen: 0.0.0.0@53
		  rundir: /run/knot
		  tcp-io-timeout: 0
		database:
		  storage: $PWD/db
		acl:
		  - id: all
		    address: 0.0.0.0/0
		    action: transfer
		zone:
		  - domain: lockstep.test
		    file: $PWD/zones/zone
		    acl: all
	C
	exec knotd -c "$PWD/conf"
}

play() {
	kdig +tcp +time=60 +retry=0 @"$ADDRESS" lockstep.test AXFR | brake >out
	{ grep '^h' out || :; } | cut -d . -f 1 | sort >got
	seq -f 'h%.0f' 100001 160000 >want
	! grep -E '^;; (WARNING|ERROR)' out >&2 || exit 1
	same got want
}
