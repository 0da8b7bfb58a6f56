#!/usr/bin/env bash
# Which options does a DHCP client see that a server put in the fields for names, for want of room?
# Version: github.com/insomniacslk/dhcp v0.0.0-20260901064844-234b97448fae, package dhcpv4. Format: RFC 2132 section 9.3, RFC 3396.
# Guess: option 52 (overload) is honoured when a message is read, as splitting of long options is.
# Seen: it is not. The host name in the field sname is not among the options, and the raw options are handed out as the server's
#       name: a tag, a length and the end mark in a string. An option of 600 octets, split by the library, is put together again.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"bytes"
	"fmt"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

const sname = 44 // where the field for the server's name begins (RFC 2131 section 2)

func main() {
	for _, overload := range []byte{0, 2} { // 2: sname holds options
		m, err := dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeOffer))
		if err != nil {
			panic(err)
		}
		if overload != 0 {
			m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionOptionOverload, []byte{overload}))
		} else {
			m.UpdateOption(dhcpv4.OptHostName("client7"))
		}
		b := m.ToBytes()
		if overload != 0 {
			copy(b[sname:], append([]byte{12, 7}, "client7\xff"...)) // option 12, host name, and the end
		}
		back, err := dhcpv4.FromBytes(b)
		if err != nil {
			panic(err)
		}
		fmt.Printf("overload %d: host name %q, server's name %q\n", overload, back.HostName(), back.ServerHostName)
	}
	long := bytes.Repeat([]byte{7}, 600)
	m, err := dhcpv4.New(dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(224), long)))
	if err != nil {
		panic(err)
	}
	back, err := dhcpv4.FromBytes(m.ToBytes())
	if err != nil {
		panic(err)
	}
	fmt.Println("600 octets come back:", bytes.Equal(back.Options.Get(dhcpv4.GenericOptionCode(224)), long))
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/insomniacslk/dhcp/dhcpv4@v0.0.0-20260901064844-234b97448fae >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want='overload 0: host name "client7", server'"'"'s name ""
overload 2: host name "", server'"'"'s name "\f\aclient7\xff"
600 octets come back: true'
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
