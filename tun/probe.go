package tun

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// probeEvery spaces repeated probes: a frame can be lost.
const probeEvery = 100 * time.Millisecond

// Probe asks whether somebody else holds one of the addresses, for wait at most:
// ARP probes (RFC 5227, 2.1.1) and solicitations from the unspecified address
// (RFC 4862, 5.4.2), which change nobody's cache. The announcer must be inactive;
// one probe at a time.
func (a *Announcer) Probe(ctx context.Context, wait time.Duration) (Conflict, bool) {
	select {
	case <-a.claimants: // of an earlier time
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	t := time.NewTicker(probeEvery)
	defer t.Stop()
	for {
		a.sendProbes()
		select {
		case c := <-a.claimants:
			return c, true
		case <-t.C:
		case <-ctx.Done():
			return Conflict{}, false
		}
	}
}

func (a *Announcer) sendProbes() {
	a.mu.Lock()
	defer a.mu.Unlock()
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

// claimed notes for Probe that somebody else answers for ip; mu is held.
func (a *Announcer) claimed(ip netip.Addr, mac hwAddr) {
	a.claims.Add(1)
	select {
	case a.claimants <- Conflict{Interface: a.name, Addr: ip, MAC: net.HardwareAddr(mac[:])}:
	default:
	}
}
