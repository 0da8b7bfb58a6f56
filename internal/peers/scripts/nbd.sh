serve() {
	content disk 64
	printf '[generic]\nuser = root\ngroup = root\n[disk]\nexportname = %s\n' "$PWD/disk" >conf
	rm -f pid
	nbd-server -C "$PWD/conf" -p "$PWD/pid"
	until [ -s pid ]; do sleep 0.05; done
	while [ -d "/proc/$(cat pid)" ]; do sleep 1; done
}

play() {
	hold copy 1000000 nbdcopy "nbd://$ADDRESS/disk" copy
	same copy "$SERVER/disk"
}
