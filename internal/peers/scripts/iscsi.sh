serve() {
	content disk 64
	tgtd -f --iscsi portal=0.0.0.0:3260 &
	local pid=$! iqn=iqn.2026-01.test.lockstep:disk
	until tgtadm --lld iscsi --op show --mode sys >/dev/null 2>&1; do sleep 0.1; done
	tgtadm --lld iscsi --op new --mode target --tid 1 -T $iqn
	tgtadm --lld iscsi --op new --mode logicalunit --tid 1 --lun 1 -b "$PWD/disk"
	tgtadm --lld iscsi --op bind --mode target --tid 1 -I ALL
	wait $pid
}

play() {
	until iscsi-inq "iscsi://$ADDRESS/iqn.2026-01.test.lockstep:disk/1" >inquiry; do sleep 0.2; done
	hold copy 1000000 qemu-img convert -f raw -O raw "iscsi://$ADDRESS/iqn.2026-01.test.lockstep:disk/1" copy
	same copy "$SERVER/disk"
}
