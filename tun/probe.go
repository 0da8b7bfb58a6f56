package tun

import (
	"net"
	"net/netip"
)

// Ask asks once whether somebody else holds one of the addresses: ARP probes (RFC 5227,
// 2.1.1) and solicitations from the unspecified address (RFC 4862, 5.4.2), which change
// nobody's cache. Who does answers within a round trip of the network, and comes by
// Claims, or by Conflicts while active.
func (a *Announcer) Ask() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return
	}
	for _, ip := range a.addr4 {
		f := arpFrame{
			ethDst: broadcastHW, ethSrc: a.link.mac, op: arpRequest,
			senderHW: a.link.mac, senderIP: netip.IPv4Unspecified(), targetIP: ip,
		}
		a.buf = f.append(a.buf[:0])
		a.count(&a.probed, a.socks.arp.send(a.link.index, a.buf))
	}
	for _, ip := range a.addr6 {
		group := solicitedNode(ip)
		f := ndFrame{
			ethDst: multicastHW(group), ethSrc: a.link.mac, typ: ndSolicit,
			src: netip.IPv6Unspecified(), dst: group, target: ip,
		}
		a.buf = f.append(a.buf[:0])
		a.count(&a.probed, a.socks.ndp.send(a.link.index, a.buf))
	}
}

// Claims delivers claims by others seen while inactive: whoever is active at work, or
// an answer to Ask. It holds one, the oldest unread one. It is never closed.
func (a *Announcer) Claims() <-chan Conflict { return a.claimants }

// claimed notes that somebody else answers for ip; mu is held. Whoever is active all the same, and
// only mute, has it to put right.
func (a *Announcer) claimed(ip netip.Addr, mac hwAddr) {
	a.claims.Add(1)
	if a.active {
		a.Defend()
	}
	select {
	case a.claimants <- Conflict{Interface: a.name, Addr: ip, MAC: net.HardwareAddr(mac[:])}:
	default:
	}
}
