serve() {
	local n
	if [ ! -d data ]; then
		mkdir data
		cat >conf <<-C
			include /etc/ldap/schema/core.schema
			modulepath /usr/lib/ldap
			moduleload back_mdb
			sizelimit unlimited
			database mdb
			suffix dc=lockstep
			directory $PWD/data
			maxsize 268435456
		C
		text=$(printf '%0400d' 0)
		{
			printf 'dn: dc=lockstep\nobjectClass: dcObject\nobjectClass: organization\ndc: lockstep\no: lab\n\n'
			for ((n = 10001; n <= 20000; n++)); do printf 'dn: cn=%d,dc=lockstep\nobjectClass: person\ncn: %d\nsn: %d\ndescription: %s\n\n' $n $n $n "$text"; done
		} >ldif
		slapadd -q -f conf -l ldif
	fi
	exec slapd -f conf -h ldap://0.0.0.0:389 -d 0
}

play() {
	ldapsearch -x -LLL -o ldif-wrap=no -H "ldap://$ADDRESS" -b dc=lockstep '(cn=*)' cn sn description | brake >out
	grep -E '^(cn|description):' out >got
	grep -E '^(cn|description):' "$SERVER/ldif" >want
	same got want
}
