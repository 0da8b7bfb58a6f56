serve() {
	[ -e host ] || { ssh-keygen -q -t ed25519 -N '' -f host; ssh-keygen -q -t ed25519 -N '' -f key; }
	content file 32
	mkdir -p /run/sshd # of its own, see bed.go
	exec "$(command -v sshd)" -D -e -f /dev/null -h "$PWD/host" -p 22 -o AuthorizedKeysFile="$PWD/key.pub" -o StrictModes=no -o UsePAM=no -o PidFile=none \
		-o PermitRootLogin=yes -o Subsystem='sftp internal-sftp'
}

options() {
	cp "$SERVER/key" key
	chmod 600 key
	OPTIONS="-F none -i $PWD/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o BatchMode=yes"
}

play() {
	options
	answered out 20
	steps 'echo $((@ * @ - @ * @ + @))' | ssh $OPTIONS "root@$ADDRESS" sh >out
	numbered @ >want
	same out want
}

play_sftp() {
	options
	hold file 1000000 sftp -q $OPTIONS "root@$ADDRESS:$SERVER/file" file
	same file "$SERVER/file"
}
