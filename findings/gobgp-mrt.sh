#!/usr/bin/env bash
# Who can read the MRT files that GoBGP's library writes?
# Version: github.com/osrg/gobgp/v4 v4.8.0, package pkg/packet/mrt; bgpdump 1.6.2-2 (Debian 12). Format: RFC 6396.
# Guess: bgpdump and the library itself, all of them.
# Seen: an update with microseconds (BGP4MP_ET) has a length that leaves out the four octets of the microseconds, which section 3 counts:
#       bgpdump reads neither it nor what follows, the library refuses the type. A table's entry for an IPv6 prefix (RIB_IPV6_UNICAST)
#       begins with AFI and SAFI, which only RIB_GENERIC has: nobody reads the prefix. IPv4 and whole seconds are right.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (apt-get)"; exit 2; }
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
(chmod 777 . && apt-get download -q bgpdump=1.6.2-2 && dpkg -x bgpdump_*.deb root) >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
cat >main.go <<'GO'
package main

import (
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/packet/mrt"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var (
	peer, local = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	at          = time.Unix(1700000000, 123456000)
)

func attrs(nextHop bgp.PathAttributeInterface) []bgp.PathAttributeInterface {
	path := bgp.NewPathAttributeAsPath([]bgp.AsPathParamInterface{bgp.NewAs4PathParam(2, []uint32{65000})})
	return []bgp.PathAttributeInterface{bgp.NewPathAttributeOrigin(0), path, nextHop}
}

// keep writes the message to the named file and says whether the library reads it.
func keep(file *os.File, m *mrt.MRTMessage) {
	b := must(m.Serialize())
	must(file.Write(b))
	h := must(mrt.ParseHeader(b))
	length := len(b) - 12 // what follows the common header, RFC 6396 section 3
	_, err := mrt.ParseBody(b[len(b)-int(h.Len):], h)
	fmt.Printf("%s: length says %d, is %d; library: %v\n", file.Name(), h.Len, length, err)
}

func update(kind mrt.MRTType, file *os.File) {
	prefix := must(bgp.NewIPAddrPrefix(netip.MustParsePrefix("192.0.2.0/24")))
	u := bgp.NewBGPUpdateMessage(nil, attrs(must(bgp.NewPathAttributeNextHop(peer))), []bgp.PathNLRI{{NLRI: prefix}})
	body := must(mrt.NewBGP4MPMessage(65000, 65001, 1, peer, local, true, u))
	keep(file, must(mrt.NewMRTMessage(at, kind, mrt.MESSAGE_AS4, body)))
}

func table(family bgp.Family, subtype mrt.MRTSubTypeTableDumpv2, prefix string, nextHop func(bgp.NLRI) bgp.PathAttributeInterface, file *os.File) {
	peers := mrt.NewPeerIndexTable(local, "", []*mrt.Peer{mrt.NewPeer(peer, peer, 65000, true)})
	must(file.Write(must(must(mrt.NewMRTMessage(at, mrt.TABLE_DUMPv2, mrt.PEER_INDEX_TABLE, peers)).Serialize())))
	n := must(bgp.NewIPAddrPrefix(netip.MustParsePrefix(prefix)))
	entry := mrt.NewRibEntry(0, 1700000000, 0, attrs(nextHop(n)), false)
	keep(file, must(mrt.NewMRTMessage(at, mrt.TABLE_DUMPv2, subtype, mrt.NewRib(0, family, n, []*mrt.RibEntry{entry}))))
}

func main() {
	f := must(os.Create("updates-seconds"))
	update(mrt.BGP4MP, f)
	update(mrt.BGP4MP, f)
	f = must(os.Create("updates-microseconds"))
	update(mrt.BGP4MP_ET, f)
	update(mrt.BGP4MP_ET, f)
	table(bgp.RF_IPv4_UC, mrt.RIB_IPV4_UNICAST, "192.0.2.0/24", func(bgp.NLRI) bgp.PathAttributeInterface {
		return must(bgp.NewPathAttributeNextHop(peer))
	}, must(os.Create("table-ipv4")))
	table(bgp.RF_IPv6_UC, mrt.RIB_IPV6_UNICAST, "2001:db8::/32", func(n bgp.NLRI) bgp.PathAttributeInterface {
		return must(bgp.NewPathAttributeMpReachNLRI(bgp.RF_IPv6_UC, []bgp.PathNLRI{{NLRI: n}}, netip.MustParseAddr("2001:db8::1")))
	}, must(os.Create("table-ipv6")))
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/osrg/gobgp/v4@v4.8.0 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
go run . >library
# The same with the lengths and the entry's head as the RFC has them: what bgpdump reads then shows that nothing else is wrong.
python3 - <<'P'
import struct
b = open("updates-microseconds", "rb").read()
half = len(b) // 2
open("updates-microseconds-mended", "wb").write(b"".join(m[:8] + struct.pack(">I", half - 12) + m[12:] for m in (b[:half], b[half:])))
b = open("table-ipv6", "rb").read()
at = 12 + struct.unpack(">I", b[8:12])[0]  # behind the table of peers
m = b[at:]
open("table-ipv6-mended", "wb").write(b[:at] + m[:8] + struct.pack(">I", len(m) - 15) + m[12:16] + m[19:])
P
got=$(uniq library
  for f in updates-seconds updates-microseconds updates-microseconds-mended table-ipv4 table-ipv6 table-ipv6-mended; do
    echo "$f: bgpdump reads $(root/usr/bin/bgpdump -m $f 2>/dev/null | grep -cE '\|(192.0.2.0/24|2001:db8::/32)\|' || true)"
  done)
want="updates-seconds: length says 67, is 67; library: <nil>
updates-microseconds: length says 67, is 71; library: unsupported type: 17
table-ipv4: length says 38, is 38; library: <nil>
table-ipv6: length says 55, is 55; library: not all RibEntry bytes are available
updates-seconds: bgpdump reads 2
updates-microseconds: bgpdump reads 0
updates-microseconds-mended: bgpdump reads 2
table-ipv4: bgpdump reads 1
table-ipv6: bgpdump reads 0
table-ipv6-mended: bgpdump reads 1"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
