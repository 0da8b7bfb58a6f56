#!/usr/bin/env bash
# Is a DNS record that has gone over the wire the same as the one it was made of, to a library that compares records?
# Version: github.com/miekg/dns v1.1.73. RFC 1035, 5.1: \DDD is an octet; RFC 4034, 5.3: a digest in text is hexadecimal of either case.
# Guess: IsDuplicate says so for every record, since its RDATA are the same octets.
# Seen: it compares texts. A DS with capital digits, as most tools print them, and a name with an escaped dot written \046 are not the same any more,
#       so an update that is compared with what a server holds deletes and adds what was there. And a message's extended response code 16, an EDNS
#       version that is not known (BADVERS, RFC 6891), is printed as BADSIG.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/miekg/dns"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func pack(rr dns.RR) []byte {
	b := make([]byte, 1000)
	n, err := dns.PackRR(rr, b, 0, nil, false)
	check(err)
	return b[:n]
}

func main() {
	for _, text := range []string{
		"a. 60 IN A 192.0.2.1",
		"a. 60 IN DS 60485 5 1 2bb183af5f22588179a53b0a98631fad1a292118",
		"a. 60 IN DS 60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118",
		`a. 60 IN PTR x\.y.`,
		`a. 60 IN PTR x\046y.`,
	} {
		rr, err := dns.NewRR(text)
		check(err)
		back, _, err := dns.UnpackRR(pack(rr), 0)
		check(err)
		fmt.Printf("%s: octets the same %v, duplicate %v\n", text, bytes.Equal(pack(rr), pack(back)), dns.IsDuplicate(rr, back))
	}
	m := new(dns.Msg).SetQuestion("a.", dns.TypeA)
	m.SetEdns0(1232, false)
	m.Response, m.Rcode = true, dns.RcodeBadVers
	b, err := m.Pack()
	check(err)
	got := new(dns.Msg)
	check(got.Unpack(b))
	line, _, _ := strings.Cut(got.String(), ", id:")
	fmt.Println(line)
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/miekg/dns@v1.1.73 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want='a. 60 IN A 192.0.2.1: octets the same true, duplicate true
a. 60 IN DS 60485 5 1 2bb183af5f22588179a53b0a98631fad1a292118: octets the same true, duplicate true
a. 60 IN DS 60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118: octets the same true, duplicate false
a. 60 IN PTR x\.y.: octets the same true, duplicate true
a. 60 IN PTR x\046y.: octets the same true, duplicate false
;; opcode: QUERY, status: BADSIG'
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
