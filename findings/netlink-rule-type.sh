#!/usr/bin/env bash
# Can a policy rule be saved by RuleList and restored by RuleAdd?
# Version: github.com/vishvananda/netlink v1.3.1; Linux 6.18.
# Guess: yes, the struct has a field for everything, Type among them.
# Seen: RuleAdd sends Type, RuleList does not read it back. A blackhole rule is listed with type 0 and table 0, and what is added
#       again from that is accepted as a rule that is no blackhole.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (a network namespace of its own)"; exit 2; }
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

func shown() string {
	out, err := exec.Command("ip", "-4", "rule", "show", "pref", "500").Output()
	check(err)
	return string(out)
}

func main() {
	runtime.LockOSThread() // the namespace is this thread's
	check(unix.Unshare(unix.CLONE_NEWNET))
	_, src, _ := net.ParseCIDR("10.1.0.0/16")
	r := netlink.NewRule()
	r.Family, r.Priority, r.Src, r.Type = unix.AF_INET, 500, src, unix.RTN_BLACKHOLE
	check(netlink.RuleAdd(r))
	fmt.Printf("added: blackhole %v, lookup %v\n", strings.Contains(shown(), "blackhole"), strings.Contains(shown(), "lookup"))
	rules, err := netlink.RuleList(unix.AF_INET)
	check(err)
	for _, x := range rules {
		if x.Priority == 500 {
			fmt.Printf("listed: type %d, table %d\n", x.Type, x.Table)
			check(netlink.RuleDel(r))
			err := netlink.RuleAdd(&x)
			fmt.Printf("added again as listed: error %v, blackhole %v\n", err != nil, strings.Contains(shown(), "blackhole"))
		}
	}
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/vishvananda/netlink@v1.3.1 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want="added: blackhole true, lookup false
listed: type 0, table 0
added again as listed: error false, blackhole false"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
