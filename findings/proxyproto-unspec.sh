#!/usr/bin/env bash
# What becomes of a PROXY protocol header that names no addresses?
# Version: github.com/pires/go-proxyproto v0.15.0. Format: haproxy's proxy-protocol.txt, versions 1 (UNKNOWN) and 2 (AF_UNSPEC).
# Guess: both versions say the same, and what the library writes without an error it also reads.
# Seen: version 1 ("PROXY UNKNOWN") is read, as the command LOCAL. Version 2 with the command PROXY and AF_UNSPEC is written without
#       an error, and refused when it is read; with the command LOCAL it is read. A UDP header written as version 1 is UNKNOWN, too: its
#       addresses are gone, again without an error.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"

	proxyproto "github.com/pires/go-proxyproto"
)

func main() {
	udp1 := &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}
	udp2 := &net.UDPAddr{IP: net.IPv4(198, 51, 100, 1), Port: 2}
	for _, c := range []struct {
		name string
		h    *proxyproto.Header
	}{
		{"version 1, PROXY, unspecified", &proxyproto.Header{Version: 1, Command: proxyproto.PROXY, TransportProtocol: proxyproto.UNSPEC}},
		{"version 2, PROXY, unspecified", &proxyproto.Header{Version: 2, Command: proxyproto.PROXY, TransportProtocol: proxyproto.UNSPEC}},
		{"version 2, LOCAL, unspecified", &proxyproto.Header{Version: 2, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}},
		{"version 1, UDP", proxyproto.HeaderProxyFromAddrs(1, udp1, udp2)},
		{"version 2, UDP", proxyproto.HeaderProxyFromAddrs(2, udp1, udp2)},
	} {
		b, err := c.h.Format()
		if err != nil {
			fmt.Println(c.name, "not written:", err)
			continue
		}
		got, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			fmt.Printf("%s: written in %d bytes, reading fails: %v\n", c.name, len(b), err)
			continue
		}
		fmt.Printf("%s: written in %d bytes, read as local %v, source %v\n", c.name, len(b), got.Command == proxyproto.LOCAL, got.SourceAddr)
	}
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/pires/go-proxyproto@v0.15.0 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want="version 1, PROXY, unspecified: written in 15 bytes, read as local true, source <nil>
version 2, PROXY, unspecified: written in 16 bytes, reading fails: proxyproto: unsupported address family and protocol
version 2, LOCAL, unspecified: written in 16 bytes, read as local true, source <nil>
version 1, UDP: written in 15 bytes, read as local true, source <nil>
version 2, UDP: written in 28 bytes, read as local false, source 192.0.2.1:1"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
