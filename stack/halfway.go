package stack

import "gvisor.dev/gvisor/pkg/tcpip/header"

// A server is dialled when a client's SYN comes, because only the server can say
// whether the client is refused. But anybody can send a SYN in anybody's name. So the
// server's SYN-ACK stays unanswered until the client has answered ours: to the server
// a forged SYN is what it would be without a gateway, a connection in SYN-RECEIVED
// (RFC 9293, 3.3.2) of which no application hears, and its own defence holds.

// keepBack reports whether a segment of netstack's is the ACK that completes a
// server's handshake, or one that repeats it. mu is held.
func (l *Leg) keepBack(tcp header.TCP, payload int) bool {
	if payload > 0 || tcp.Flags() != header.TCPFlagAck {
		return false // a RST may leave at any time; nothing else is said before Complete
	}
	if ack, ok := l.rxOffset(tcp.AckNumber()); ok {
		l.rxWants = max(l.rxWants, ack+uint64(tcp.WindowSize())<<l.stackWS)
	}
	l.quiet = false
	return true
}

// Complete answers the SYN-ACK of a server that was dialled half-way: its client has
// proved that it is there.
func (l *Leg) Complete() {
	l.reply(func() []byte {
		was := l.halfWay
		l.halfWay = false
		if !was || l.state != stAttached {
			return nil
		}
		l.startProbing() // a continued one may know more of us than we do
		return l.ackTo(l.edge(l.permitted(l.rxNxt), l.rxWants), nil)
	}, false)
}
