#!/usr/bin/env bash
# Is a rule about the reply's direction of a tracked connection about the reply's, and can it be listed?
# Version: github.com/google/nftables v0.3.0; Linux 6.18; nft 1.0.6 to look.
# Guess: expr.Ct with Direction 1 gives `ct reply proto-dst`, and GetRules returns it as it was.
# Seen: it gives `ct original proto-dst`: the direction is one octet (NFTA_CT_DIRECTION, NLA_U8 in nft_ct_policy), the library
#       writes four, of which the kernel takes the first, 0. And with one such rule GetRules fails for its whole chain,
#       since the octet that the kernel answers is read as four.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (a network namespace of its own)"; exit 2; }
command -v nft >/dev/null || { echo "needs nft (nftables)"; exit 2; }
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"fmt"
	"os/exec"
	"regexp"
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
	ch := c.AddChain(&nftables.Chain{Name: "c", Table: t})
	c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: []expr.Any{&expr.Counter{}}})
	check(c.Flush())
	rules, err := c.GetRules(t, ch)
	fmt.Printf("listed before: %d, %v\n", len(rules), err)

	c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: []expr.Any{
		&expr.Ct{Key: expr.CtKeyPROTODST, Direction: 1, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0, 80}},
	}})
	check(c.Flush())
	out, err := exec.Command("nft", "--debug=netlink", "list", "table", "inet", "t").CombinedOutput()
	check(err)
	fmt.Printf("asked for the reply's, in the kernel: %s\n", regexp.MustCompile(`dir \w+`).Find(out))
	rules, err = c.GetRules(t, ch)
	fmt.Printf("listed after: %d, %v\n", len(rules), err)
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/google/nftables@v0.3.0 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want="listed before: 1, <nil>
asked for the reply's, in the kernel: dir original
listed after: 0, netlink: attribute 3 is not a uint32; length: 1"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
