package stack

import (
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// The error that takes a peer's doubled time-out back quotes, as a router would, the
// peer's segment whose number is the last that we have acknowledged.
func TestUnreachable(t *testing.T) {
	for _, a := range [][2]string{{"203.0.113.10:80", "198.51.100.7:40000"}, {"[2001:db8::10]:80", "[2001:db8::7]:40000"}} {
		p := Params{Local: netip.MustParseAddrPort(a[0]), Remote: netip.MustParseAddrPort(a[1]), ISS: 5000, IRS: 9000}
		l := &Leg{p: p, v6: p.Local.Addr().Is6(), flow: flowOf(p.Local, p.Remote)}
		l.rxAcked, l.rxNxt = 100, 200
		b := l.unreachable()
		q, ok := parseICMPError(b)
		if want := flowOf(p.Remote, p.Local); !ok || q.tooBig || q.flow != want || q.seq != 9101 {
			t.Errorf("%s: %v %+v", a[0], ok, q)
		}
		if l.v6 {
			m := header.ICMPv6(b[header.IPv6MinimumSize:])
			sum := header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, header.IPv6(b).SourceAddress(), header.IPv6(b).DestinationAddress(), uint16(len(m)))
			if m.Type() != header.ICMPv6DstUnreachable || m.Code() != header.ICMPv6NetworkUnreachable || checksum.Checksum(m, sum) != 0xffff {
				t.Errorf("message: %x", b)
			}
			continue
		}
		m := header.ICMPv4(b[header.IPv4MinimumSize:])
		if m.Type() != header.ICMPv4DstUnreachable || m.Code() != header.ICMPv4HostUnreachable || checksum.Checksum(m, 0) != 0xffff ||
			!header.IPv4(b).IsChecksumValid() || int(header.IPv4(b).TotalLength()) != len(b) {
			t.Errorf("message: %x", b)
		}
	}
}
