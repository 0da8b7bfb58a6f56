#!/usr/bin/env bash
# Does a listed rule have all that it consists of?
# Version: github.com/google/nftables v0.3.0; Linux 6.18.
# Guess: GetRules returns each expression that AddRule takes, or an error.
# Seen: Byteorder and Socket are left out without an error (neither is among the names that are read; Byteorder's unmarshal is "not yet
#       implemented"). The rest of the rule then compares whatever is in the register: added again it is another rule.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (a network namespace of its own)"; exit 2; }
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"fmt"
	"runtime"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
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
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "t"})
	ch := c.AddChain(&nftables.Chain{Name: "c", Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityFilter})
	for _, exprs := range [][]expr.Any{
		{ // a total length of at most 64, compared in the host's order
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 2, Len: 2},
			&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderNtoh, Len: 2, Size: 2},
			&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: []byte{0, 0}, ToData: []byte{64, 0}},
		},
		{ // packets of a socket with a mark
			&expr.Socket{Key: expr.SocketKeyMark, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{7, 0, 0, 0}},
		},
	} {
		rule := c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: exprs})
		check(c.Flush())
		rules, err := c.GetRules(t, ch)
		check(err)
		fmt.Printf("%d expressions, read:", len(exprs))
		for _, e := range rules[0].Exprs {
			fmt.Printf(" %T", e)
		}
		fmt.Println()
		rule.Handle = rules[0].Handle
		check(c.DelRule(rule))
		check(c.Flush())
	}
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/google/nftables@v0.3.0 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want="3 expressions, read: *expr.Payload *expr.Range
2 expressions, read: *expr.Cmp"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
