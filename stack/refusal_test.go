package stack

import (
	"bytes"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// A client that wants signed segments is told by a RST and by an ICMP error that quotes
// its SYN; whoever watches is told once.
func TestSigned(t *testing.T) {
	for _, c := range []struct {
		vip, client string
		option      []byte
		signed      bool
	}{
		{"203.0.113.10:179", "198.51.100.7:40000", concat([]byte{19, 18}, make([]byte, 16), []byte{1, 1}), true},
		{"[2001:db8::10]:179", "[2001:db8::7]:40000", concat([]byte{29, 16}, make([]byte, 14)), true},
		{"203.0.113.10:179", "198.51.100.7:40000", []byte{2, 4, 5, 0xb4}, false},
	} {
		f := flowOf(netip.MustParseAddrPort(c.vip), netip.MustParseAddrPort(c.client))
		v6 := netip.MustParseAddrPort(c.vip).Addr().Is6()
		syn := f.build(make([]byte, maxMade), v6, true, made{flags: header.TCPFlagSyn, seq: 7, window: 1000, opts: c.option})
		var s segment
		if res := s.parse(syn, len(syn)); res != parsedTCP {
			t.Fatalf("SYN: %d", res)
		}
		if s.signed() != c.signed {
			t.Errorf("option %d: signed is %v", c.option[0], s.signed())
			continue
		}
		b := s.unreachablePort()
		q, ok := parseICMPError(b)
		if !ok || q.flow != flowOf(netip.MustParseAddrPort(c.client), netip.MustParseAddrPort(c.vip)) || q.seq != 7 {
			t.Errorf("%s: quotes %+v, %v", c.vip, q, ok)
		}
		icmp := b[len(b)-len(syn)-8:]
		var x uint16
		if v6 {
			x = header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, header.IPv6(b).SourceAddress(), header.IPv6(b).DestinationAddress(), uint16(len(icmp)))
		}
		if checksum.Checksum(icmp, x) != 0xffff || !v6 && checksum.Checksum(b[:20], 0) != 0xffff {
			t.Errorf("%s: checksum", c.vip)
		}
	}
}

// Extension headers are passed over if they say nothing; TCP behind others is dropped,
// and what is not TCP is somebody else's business.
func TestExtensions(t *testing.T) {
	const tcp, udp, hop, dst, routing, fragment, ah = 6, 17, 0, 60, 43, 44, 51
	pad := []byte{1, 4, 0, 0, 0, 0}
	for _, c := range []struct {
		name  string
		next  uint8
		chain []byte // with the next header of each as its first byte
		want  parseResult
	}{
		{"none", tcp, nil, parsedTCP},
		{"padding", hop, concat([]byte{tcp, 0}, pad), parsedTCP},
		{"two", hop, concat([]byte{dst, 0}, pad, []byte{tcp, 0}, pad), parsedTCP},
		{"unknown to be skipped", dst, []byte{tcp, 0, 0x1e, 2, 1, 2, 0, 0}, parsedTCP},
		{"unknown to be discarded", dst, []byte{tcp, 0, 0x5e, 2, 1, 2, 0, 0}, parsedExtension},
		{"jumbo", hop, []byte{tcp, 0, 0xc2, 4, 0, 1, 0, 0}, parsedExtension},
		{"option runs over", hop, []byte{tcp, 0, 0x1e, 9, 1, 2, 0, 0}, parsedExtension},
		{"route that ends here", routing, []byte{tcp, 0, 4, 0, 0, 0, 0, 0}, parsedTCP},
		{"route that goes on", routing, []byte{tcp, 0, 4, 1, 0, 0, 0, 0}, parsedExtension},
		{"fragment", fragment, []byte{tcp, 0, 0, 1, 0, 0, 0, 1}, parsedFragment},
		{"header runs over", hop, []byte{tcp, 200, 1, 4, 0, 0, 0, 0}, parsedBad},
		{"not TCP", hop, concat([]byte{udp, 0}, pad), parsedOther},
		{"not TCP, to be discarded", hop, []byte{udp, 0, 0xc2, 4, 0, 1, 0, 0}, parsedOther},
		{"authenticated", ah, concat([]byte{tcp, 0}, pad), parsedOther},
		{"too many", hop, bytes.Repeat([]byte{hop, 0, 1, 4, 0, 0, 0, 0}, 9), parsedExtension},
	} {
		b := make([]byte, header.IPv6MinimumSize)
		b = append(append(b, c.chain...), make([]byte, header.TCPMinimumSize)...)
		b[0], b[4], b[5], b[6] = 0x60, 0, byte(len(b)-header.IPv6MinimumSize), c.next
		b[len(b)-header.TCPMinimumSize+12] = 5 << 4
		var s segment
		if got := s.parse(b, len(b)); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		} else if got == parsedTCP && (s.ipLen != len(b)-header.TCPMinimumSize || s.payload != 0) {
			t.Errorf("%s: TCP at %d, %d bytes", c.name, s.ipLen, s.payload)
		}
	}
}

func concat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
