#!/usr/bin/env bash
# Are a route's locked metrics locked, and seen to be?
# Version: github.com/vishvananda/netlink v1.3.1; Linux 6.18, a veth.
# Guess: MTULock and RtoMinLock can be set together, and a listing shows which are.
# Seen: each sends a mask of its own (RTAX_LOCK), of which the kernel keeps the last: with both, path MTU discovery goes on changing the MTU
#       that was to be fixed. And a listing compares the whole mask with one bit: of a route with two locks it shows none.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (a network namespace of its own)"; exit 2; }
command -v ip >/dev/null || { echo "needs ip (iproute2)"; exit 2; }
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func ip(args string) string {
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		panic(string(out))
	}
	return strings.TrimSpace(string(out))
}

func main() {
	runtime.LockOSThread() // the namespace is this thread's
	check(unix.Unshare(unix.CLONE_NEWNET))
	ip("link add v0 type veth peer name v1")
	ip("link set v1 up")
	ip("link set v0 up")
	link, err := netlink.LinkByName("v0")
	check(err)
	_, dst, _ := net.ParseCIDR("192.0.2.0/24")
	for _, r := range []netlink.Route{
		{MTU: 1400, MTULock: true},
		{MTU: 1400, MTULock: true, RtoMin: 40, RtoMinLock: true},
	} {
		r.LinkIndex, r.Dst = link.Attrs().Index, dst
		check(netlink.RouteReplace(&r))
		_, metrics, _ := strings.Cut(ip("route show 192.0.2.0/24"), "dev v0 ")
		fmt.Printf("asked for mtu lock %v, rto_min lock %v; ip shows: %s\n", r.MTULock, r.RtoMinLock, metrics)
	}
	ip("route replace 192.0.2.0/24 dev v0 mtu lock 1400 advmss lock 1200")
	rs, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: dst}, netlink.RT_FILTER_DST)
	check(err)
	fmt.Printf("MTU and MSS locked by ip; listed: mtu lock %v\n", rs[0].MTULock)
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/vishvananda/netlink@v1.3.1 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want="asked for mtu lock true, rto_min lock false; ip shows: mtu lock 1400
asked for mtu lock true, rto_min lock true; ip shows: mtu 1400 rto_min lock 40ms
MTU and MSS locked by ip; listed: mtu lock false"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
