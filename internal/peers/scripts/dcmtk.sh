serve() {
	mkdir -p store
	exec storescp --fork +B --sleep-after 1 -od store 11112
}

# An image a second: a storescu that is stopped gives up when it goes on (its writes have a time-out, see signal(7)). The images end with their pixels, which storescp keeps as they came.
play() {
	local n f
	mkdir -p images
	content pixels 1
	for ((n = 1; n <= 20; n++)); do
		cat >dump <<-D
			(0002,0010) UI =LittleEndianExplicit
			(0008,0016) UI =SecondaryCaptureImageStorage
			(0008,0018) UI [1.2.3.4.$n.$(cksum <<<"$RUN" | cut -d ' ' -f 1)]
			(0008,0060) CS [OT]
			(0010,0010) PN [Doe^Jane]
			(0010,0020) LO [1]
			(0020,000d) UI [1.2.3.4]
			(0020,000e) UI [1.2.3.5]
			(0028,0002) US 1
			(0028,0004) CS [MONOCHROME2]
			(0028,0010) US 1024
			(0028,0011) US 1024
			(0028,0100) US 8
			(0028,0101) US 8
			(0028,0102) US 7
			(0028,0103) US 0
			(7fe0,0010) OB =pixels
		D
		dump2dcm -q dump images/$n
	done
	: >log
	{ until grep -q 'Store Response (Success)' log; do sleep 0.1; done; going; } &
	storescu -v -aet LAB "$ADDRESS" 11112 +sd images >log 2>&1 || { grep -E '^[EF]:' log >&2; exit 1; }
	[ "$(grep -c 'Store Response (Success)' log)" = 20 ] || exit 3
	for f in "$SERVER"/store/*".$(cksum <<<"$RUN" | cut -d ' ' -f 1)"; do
		tail -c 1048576 "$f" | cmp -s - pixels || exit 3
	done
}
