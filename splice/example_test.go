package splice_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lockstep/splice"
)

// A client's handshake with a virtual address, passed on to the server behind it: of each packet the addresses
// change, and the caller is told what it means.
func Example() {
	a := splice.Addrs{
		Client: netip.MustParseAddrPort("198.51.100.7:40000"), VIP: netip.MustParseAddrPort("203.0.113.10:80"),
		Local: netip.MustParseAddrPort("198.51.100.7:40000"), Server: netip.MustParseAddrPort("10.20.0.11:8080"),
	}
	var c splice.Conn
	c.Init(a, 1400)

	mss := []byte{2, 4, 1460 >> 8, 1460 & 0xff}
	for _, s := range []struct {
		from     splice.Side
		src, dst netip.AddrPort
		m        splice.Made
	}{
		{splice.Client, a.Client, a.VIP, splice.Made{Flags: header.TCPFlagSyn, Seq: 1000, Window: 65000, Opts: mss}},
		{splice.Server, a.Server, a.Local, splice.Made{Flags: header.TCPFlagSyn | header.TCPFlagAck, Seq: 5000, Ack: 1001, Window: 65000, Opts: mss}},
		{splice.Client, a.Client, a.VIP, splice.Made{Flags: header.TCPFlagAck, Seq: 1001, Ack: 5001, Window: 65000}},
	} {
		src, dst := s.src.Addr().As16(), s.dst.Addr().As16()
		pkt := splice.Build(make([]byte, splice.MaxMade), false, &src, &dst, s.src.Port(), s.dst.Port(), s.m)
		v := c.Forward(s.from, make([]byte, 10), pkt, header.IPv4MinimumSize, len(pkt), 0)
		ip, tcp := header.IPv4(pkt), header.TCP(pkt[header.IPv4MinimumSize:])
		fmt.Printf("%v: to %v:%d from %v:%d, %v", v.Event, ip.DestinationAddress(), tcp.DestinationPort(), ip.SourceAddress(), tcp.SourcePort(), c.State())
		if opts := tcp.Options(); len(opts) > 0 {
			fmt.Printf(", MSS %d", binary.BigEndian.Uint16(opts[2:]))
		}
		fmt.Println()
	}
	// Output:
	// syn: to 10.20.0.11:8080 from 198.51.100.7:40000, opening, MSS 1400
	// syn-ack: to 198.51.100.7:40000 from 203.0.113.10:80, opening, MSS 1400
	// opened: to 10.20.0.11:8080 from 198.51.100.7:40000, open
}
