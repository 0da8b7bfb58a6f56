#!/usr/bin/env bash
# Does Change tell whether a feature was changed?
# Version: github.com/safchain/ethtool v0.7.0; Linux 6.18, a veth.
# Guess: switching on what cannot be on now (TCP segmentation without transmit checksums) is an error.
# Seen: no error, and the feature stays off. The kernel notes it as a wish and says so in the return value of the ioctl
#       (ETHTOOL_F_WISH); the library looks at failures only. The ethtool program prints the difference.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (a network namespace of its own)"; exit 2; }
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"fmt"
	"runtime"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	runtime.LockOSThread() // the namespace is this thread's
	check(unix.Unshare(unix.CLONE_NEWNET))
	check(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v0"}, PeerName: "v1"}))
	e, err := ethtool.NewEthtool()
	check(err)
	check(e.Change("v0", map[string]bool{"tx-checksum-ip-generic": false}))
	err = e.Change("v0", map[string]bool{"tx-tcp-segmentation": true})
	f, ferr := e.Features("v0")
	check(ferr)
	fmt.Printf("change: %v; segmentation now: %v\n", err, f["tx-tcp-segmentation"])
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/safchain/ethtool@v0.7.0 github.com/vishvananda/netlink@v1.3.1 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want="change: <nil>; segmentation now: false"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
