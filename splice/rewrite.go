package splice

import "gvisor.dev/gvisor/pkg/tcpip/header"

// vnetNeedsCsum is the bit in the first byte of a virtio-net header that says that the
// checksum covers the pseudo header only (virtio 1.2, 5.1.6).
const vnetNeedsCsum = 1

// add16 adds in one's complement.
func add16(a, b uint16) uint16 {
	x := uint32(a) + uint32(b)
	return uint16(x + x>>16)
}

// rewrite gives a packet of from the addresses that the other side knows the connection by.
// The checksums change by the difference (RFC 1624, equation 3): the payload is not looked at,
// and an error that was in the packet stays in it for its receiver to find.
func (c *Conn) rewrite(from Side, partial bool, ip, tcp []byte) {
	f, addr, port := &c.server, c.diff.addr, c.diff.port
	if from == Server {
		f, addr, port = &c.client, ^addr, ^port
	}
	c.readdress(ip, f, addr)
	put16(tcp, f.localPort)
	put16(tcp[2:], f.remotePort)
	sum := tcp[header.TCPChecksumOffset:]
	if partial {
		put16(sum, add16(be16(sum), addr)) // whoever completes it reads the ports himself
		return
	}
	put16(sum, ^add16(^be16(sum), add16(addr, port)))
}

// readdress puts f's addresses, from local to remote, into an IP header.
func (c *Conn) readdress(ip []byte, f *flow, diff uint16) {
	if c.v6 {
		copy(ip[8:24], f.local[:])
		copy(ip[24:40], f.remote[:])
		return
	}
	copy(ip[12:16], f.local[12:])
	copy(ip[16:20], f.remote[12:])
	sum := ip[10:]
	put16(sum, ^add16(^be16(sum), diff))
}
