#!/usr/bin/env bash
# Which names does an interface have? Three ways to ask, three answers.
# Versions: Go 1.26 (net), github.com/vishvananda/netlink v1.3.1, github.com/safchain/ethtool v0.7.0; Linux 6.18.
# Guess: an alternative name (`ip link property add altname`) works everywhere or nowhere.
# Seen: net.InterfaceByName knows none of them. netlink knows all. ethtool (an ioctl with room for 15 characters)
#       knows a short one, and says "no such device" of one with 16 or more, which is the usual length of predictable names.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (a network namespace of its own)"; exit 2; }
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"fmt"
	"net"
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
	l, err := netlink.LinkByName("v0")
	check(err)
	check(netlink.LinkAddAltName(l, "front"))
	check(netlink.LinkAddAltName(l, "enp193s0f1np1front"))
	e, err := ethtool.NewEthtool()
	check(err)
	for _, name := range []string{"v0", "front", "enp193s0f1np1front"} {
		_, std := net.InterfaceByName(name)
		_, nl := netlink.LinkByName(name)
		_, et := e.DriverName(name)
		fmt.Println(name, "net", std == nil, "netlink", nl == nil, "ethtool", et == nil)
	}
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/vishvananda/netlink@v1.3.1 github.com/safchain/ethtool@v0.7.0 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want="v0 net true netlink true ethtool true
front net false netlink true ethtool true
enp193s0f1np1front net false netlink true ethtool false"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
