package stack

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// A connection that both appliances have lost is told to both its ends as soon as one
// of them says something.
//
// A client that speaks is answered with RST, as by any host that has restarted, and so is a server
// whose leg has a gateway's address. A server whose leg carries the client's own address
// is harder: its segment might as well belong to a client that talks to it directly, and
// the client's kernel, which would answer with RST, may have no way to that server. So the
// client is asked whether it has a connection with the virtual address from the same
// port: an octet from before its window must be acknowledged (RFC 9293, 3.10.7.4), and the
// acknowledgement reports it as a duplicate (RFC 2883, section 4), which nobody can do who
// has not seen the question. If it has one, that connection is no leg's here, so it is
// lost; the server's half is the one that the service's servers have for the client's
// address and port. If two of them have one, nothing tells which is direct: they are left alone.
//
// A client that does not report duplicates is told all the same, its server only by what
// passes between the two.

const (
	lostMax = 4096 // clients that are being asked; further ones are not
	// lostAnswer is how long servers may take to say that they have a connection.
	lostAnswer = 200 * time.Millisecond
	// lostAgain is after how long without an answer they are asked again, until lostKeep.
	lostAgain = time.Second
	// lostKeep is how long a client is remembered, and not asked again.
	lostKeep = 10 * time.Second
	// directKeep is for how long a client that has answered that it has no connection
	// with us is believed; directMax bounds how many of them are remembered.
	directKeep = 10 * time.Minute
	directMax  = 1 << 16
)

// lostFlows finds connections whose ends remember what nobody here does.
type lostFlows struct {
	mu      sync.Mutex // leaf
	servers map[netip.AddrPort][]netip.AddrPort
	virtual map[netip.AddrPort][]netip.AddrPort // the same the other way round
	asked   map[netip.AddrPort]*lostClient
	direct  map[flow]time.Duration // as the server's leg would be named, until when
}

// lostClient is a client's address and port of which a segment has come that belongs to
// no leg, from one side or the other.
type lostClient struct {
	at      time.Duration
	secret  uint32 // sequence number of the question; also asked 2^31 further on
	asked   []netip.AddrPort
	refused map[netip.AddrPort]bool // of asked
	// said: the client has a connection with vip.
	said   bool
	vip    netip.AddrPort
	ack    uint32                    // the client's newest ACK
	saidAt time.Duration             // or when the servers were asked once more
	claims map[netip.AddrPort]uint32 // servers that have a connection, with their newest ACK
	told   bool
}

// Behind tells that the legs to servers, which a client of addr may get, carry the
// client's own address. It must be called before Run.
func (e *Engine) Behind(addr netip.AddrPort, servers []netip.AddrPort) {
	k := &e.lost
	if k.servers == nil {
		k.servers, k.virtual = make(map[netip.AddrPort][]netip.AddrPort), make(map[netip.AddrPort][]netip.AddrPort)
		k.asked, k.direct = make(map[netip.AddrPort]*lostClient), make(map[flow]time.Duration)
	}
	k.servers[addr] = servers
	for _, s := range servers {
		k.virtual[s] = append(k.virtual[s], addr)
	}
}

// get returns what is known of a client; nil if too many are being asked. mu is held.
func (k *lostFlows) get(client netip.AddrPort, now time.Duration) *lostClient {
	c := k.asked[client]
	if c == nil && len(k.asked) < lostMax {
		c = &lostClient{at: now, secret: rand.Uint32(), claims: make(map[netip.AddrPort]uint32), refused: make(map[netip.AddrPort]bool)}
		k.asked[client] = c
	}
	return c
}

// lostServer takes a segment of no leg from a server to a client's address. It reports
// whether that is dealt with; otherwise it is to be routed on.
func (e *Engine) lostServer(s *segment) bool {
	k := &e.lost
	server, client := addrPort(s.flow.remote, s.flow.remotePort), addrPort(s.flow.local, s.flow.localPort)
	vips := k.virtual[server]
	if len(vips) == 0 {
		return false
	}
	for _, vip := range vips {
		if f := flowOf(vip, client); e.wake(&f) || e.table.taken(&f) {
			return false // its connection with us is another one
		}
	}
	now, f := e.now(), s.tcp.Flags()
	var ask []netip.AddrPort
	k.mu.Lock()
	defer func() {
		k.mu.Unlock()
		for _, vip := range ask {
			e.askClient(vip, client)
		}
	}()
	c := k.asked[client]
	switch {
	case f&header.TCPFlagRst != 0:
		return c != nil && c.said // the answer to our own question
	case f&header.TCPFlagSyn != 0:
		k.isDirect(s.flow, now)
		return false
	case f&header.TCPFlagAck == 0 || k.direct[s.flow] > now:
		return false
	}
	if c = k.get(client, now); c == nil {
		return false
	}
	if c.told {
		if _, ours := c.claims[server]; ours && len(c.claims) == 1 {
			e.C.drop(DropLost)
			e.resetAs(&s.flow, s.v6, s.tcp.AckNumber())
			return true
		}
		return false
	}
	c.claims[server] = s.tcp.AckNumber()
	if !c.said && c.asked == nil {
		c.asked, ask = vips, vips
	}
	return c.said
}

// isDirect notes that a client talks to a server without us. mu is held.
func (k *lostFlows) isDirect(f flow, now time.Duration) {
	if len(k.direct) >= directMax {
		clear(k.direct) // they are asked once more
	}
	k.direct[f] = now + directKeep
}

// lostPeer takes a segment of no leg from a client to a virtual address. The RST that a
// closed port would send follows the question, not the other way round.
func (e *Engine) lostPeer(s *segment) {
	k := &e.lost
	vip, client := addrPort(s.flow.local, s.flow.localPort), addrPort(s.flow.remote, s.flow.remotePort)
	servers := k.servers[vip]
	if len(servers) == 0 {
		return
	}
	now, f := e.now(), s.tcp.Flags()
	k.mu.Lock()
	c := k.asked[client]
	if f&(header.TCPFlagRst|header.TCPFlagSyn) != 0 || f&header.TCPFlagAck == 0 {
		if f&header.TCPFlagRst != 0 && c != nil && !c.said {
			for _, a := range c.asked {
				if a == vip {
					c.refused[vip] = true // it says so twice: there are two questions
				}
			}
			if len(c.refused) >= len(c.asked) {
				k.notOurs(client, c, now)
			}
		}
		k.mu.Unlock()
		return
	}
	if c = k.get(client, now); c == nil || c.told {
		k.mu.Unlock()
		return
	}
	proven := !c.said && s.reports(c.secret)
	if proven {
		c.said, c.vip, c.saidAt = true, vip, now
	}
	c.ack = s.tcp.AckNumber()
	ask := !c.said && c.asked == nil
	if ask {
		c.asked = []netip.AddrPort{vip}
	}
	k.mu.Unlock()
	if ask {
		e.askClient(vip, client)
	}
	if proven {
		e.askServers(client, vip)
	}
}

// askServers asks all that may have the other half of a client's connection.
func (e *Engine) askServers(client, vip netip.AddrPort) {
	for _, server := range e.lost.servers[vip] {
		if server.Addr().Is6() == client.Addr().Is6() {
			e.askServer(client, server)
		}
	}
}

// notOurs forgets a client that has no connection with a virtual address. mu is held.
func (k *lostFlows) notOurs(client netip.AddrPort, c *lostClient, now time.Duration) {
	for server := range c.claims {
		k.isDirect(flowOf(client, server), now)
	}
	delete(k.asked, client)
}

// reports reports whether the segment's first SACK block is the octet that was asked with.
func (s *segment) reports(secret uint32) bool {
	opts := s.tcp[header.TCPMinimumSize:]
	_, sack, ok := locateOptions(opts)
	if !ok || sack < 0 || int(opts[sack+1]) < 10 {
		return false
	}
	from, to := be32(opts[sack+2:]), be32(opts[sack+6:])
	return to == from+1 && (from == secret || from == secret+1<<31)
}

// askClient sends the question: one octet, before the client's window if it has a
// connection, from either side of the sequence space.
func (e *Engine) askClient(vip, client netip.AddrPort) {
	e.lost.mu.Lock()
	c := e.lost.asked[client]
	var secret uint32
	if c != nil {
		secret = c.secret
	}
	e.lost.mu.Unlock()
	if c == nil {
		return
	}
	f := flowOf(vip, client)
	for _, seq := range [2]uint32{secret, secret + 1<<31} {
		e.emitMade(f.buildOctet(vip.Addr().Is6(), seq, rand.Uint32()))
	}
}

// askServer makes a server say in the client's name where its connection is, if it has one.
func (e *Engine) askServer(client, server netip.AddrPort) {
	f := flowOf(client, server)
	e.emitMade(f.build(make([]byte, maxMade), server.Addr().Is6(), false, made{
		flags: header.TCPFlagAck, seq: rand.Uint32(), ack: rand.Uint32(), opts: tsOption(make([]byte, 12), 1, 0),
	}))
}

// resetAs resets the peer of f, which is at seq.
func (e *Engine) resetAs(f *flow, v6 bool, seq uint32) {
	e.emitMade(f.build(make([]byte, maxMade), v6, false, made{flags: header.TCPFlagRst, seq: seq}))
}

// sweepLost ends what has been found, and forgets. The janitor calls it.
func (e *Engine) sweepLost(now time.Duration) {
	k := &e.lost
	type end struct {
		server, client, vip netip.AddrPort
		atServer, atClient  uint32
	}
	var ends []end
	silent := map[netip.AddrPort]netip.AddrPort{} // clients whose servers are asked once more, and their virtual addresses
	k.mu.Lock()
	for client, c := range k.asked {
		switch {
		case c.said && !c.told && now-c.saidAt >= lostAnswer && len(c.claims) > 0:
			c.told, c.at = true, now
			if len(c.claims) > 1 {
				break
			}
			for server, ack := range c.claims {
				ends = append(ends, end{server, client, c.vip, ack, c.ack})
			}
		case now-c.at >= lostKeep:
			delete(k.asked, client)
		case c.said && !c.told && now-c.saidAt >= lostAgain: // the question or its answer was lost
			c.saidAt, silent[client] = now, c.vip
		}
	}
	k.mu.Unlock()
	for client, vip := range silent {
		e.askServers(client, vip)
	}
	for _, x := range ends {
		e.C.drop(DropLost)
		s, c := flowOf(x.client, x.server), flowOf(x.vip, x.client)
		e.resetAs(&s, x.server.Addr().Is6(), x.atServer)
		e.resetAs(&c, x.client.Addr().Is6(), x.atClient) // the first may be lost
	}
}

// buildOctet is build for a segment with one octet of payload, which no connection
// takes: it lies outside of every window.
func (f *flow) buildOctet(v6 bool, seq, ack uint32) []byte {
	b := f.build(make([]byte, maxMade+1), v6, false, made{
		flags: header.TCPFlagAck, seq: seq, ack: ack, opts: tsOption(make([]byte, 12), 1, 0),
	})
	b = append(b, 0)
	ipLen := header.IPv4MinimumSize
	var x uint16
	if v6 {
		ipLen = header.IPv6MinimumSize
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-ipLen))
		x = checksum.Checksum(b[8:40], 0)
	} else {
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		ip := header.IPv4(b)
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
		x = checksum.Checksum(b[12:20], 0)
	}
	tcp := header.TCP(b[ipLen:])
	tcp.SetChecksum(0)
	x = checksum.Combine(x, uint16(header.TCPProtocolNumber))
	x = checksum.Combine(x, uint16(len(tcp)))
	tcp.SetChecksum(^checksum.Combine(x, checksum.Checksum(tcp, 0)))
	return b
}
