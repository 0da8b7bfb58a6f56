#!/usr/bin/env bash
# Does a set that is read back have the properties with which it was made?
# Version: github.com/google/nftables v0.3.0; Linux 6.18.
# Guess: yes; Interval, HasTimeout, Timeout, Concatenation do.
# Seen: Counter does not. It is sent (`nft` shows a counter for each element) and not read: the set comes back without, so what is
#       made anew from what was read has no counters any more.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (a network namespace of its own)"; exit 2; }
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"fmt"
	"runtime"
	"time"

	"github.com/google/nftables"
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
	c, err := nftables.New()
	check(err)
	table := c.AddTable(&nftables.Table{Name: "t", Family: nftables.TableFamilyINet})
	sets := []*nftables.Set{
		{Table: table, Name: "counter", KeyType: nftables.TypeInetService, Counter: true},
		{Table: table, Name: "timeout", KeyType: nftables.TypeInetService, HasTimeout: true, Timeout: time.Hour},
		{Table: table, Name: "interval", KeyType: nftables.TypeInetService, Interval: true},
	}
	for _, s := range sets {
		check(c.AddSet(s, nil))
	}
	check(c.Flush())
	for _, s := range sets {
		r, err := c.GetSetByName(table, s.Name)
		check(err)
		fmt.Printf("%s: made %v %v %v, read %v %v %v\n", s.Name, s.Counter, s.HasTimeout, s.Interval, r.Counter, r.HasTimeout, r.Interval)
	}
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/google/nftables@v0.3.0 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want="counter: made true false false, read false false false
timeout: made false true false, read false true false
interval: made false false true, read false false true"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
