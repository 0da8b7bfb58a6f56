package stack

import "sync/atomic"

// Drop says why a packet went no further. The name is log key, metric label and
// test value at once.
type Drop uint8

const (
	DropMalformed    Drop = iota // not a whole IP packet, or lengths that lie
	DropChecksum                 // TCP checksum wrong
	DropOptions                  // TCP options that lie about their length
	DropFragment                 // IP fragment of a TCP segment
	DropNotActive                // this appliance is not the active
	DropMuted                    // our own packet, held back because we are not the active
	DropPending                  // too much queued for a leg that is being rebuilt
	DropCookie                   // no answer to a SYN cookie of ours, while such were sent
	DropEarly                    // of a client that may have a SYN cookie, before the segment that proves it
	DropUnknownFlow              // no such connection, and nobody to answer
	DropStaleSegment             // does not belong to the connection that now has this flow
	DropOwnHandshake             // netstack's half of a private handshake (not a loss)
	DropDetached                 // from an endpoint whose connection has ended
	DropNotTCP                   // other protocols to a virtual address while not active
	DropMemory                   // data refused because the buffers' limit is reached
	DropWrite                    // the TUN device did not take it
	DropConnLimit                // the service's limit on connections is reached
	DropICMP                     // an ICMP error that quotes nothing that is in flight, or a path MTU nobody has
	DropLost                     // of a connection that nobody here knows: both its ends are told
	DropSigned                   // a client that wants signed segments (TCP MD5, TCP-AO): refused
	DropExtension                // IPv6 extension headers that are not passed over
	DropNoPort                   // a client's SYN: no port is left for a connection with its server
	DropStranger                 // from one of too many unknown sources of our own networks
	DropTimestamp                // older than what came before (RFC 7323, section 5: PAWS)
	DropAckRange                 // acknowledges what was never sent, or what is long gone (RFC 5961, section 5)
	DropUrgent                   // an urgent mark that cannot be passed on; its bytes are
	DropHeld                     // came before this standby was the active, and too early or too much of it
	numDrops
)

var dropNames = [numDrops]string{
	"malformed", "bad-checksum", "bad-options", "fragment", "not-active", "muted",
	"pending-queue-full", "bad-cookie", "early-segment", "unknown-flow", "stale-segment",
	"own-handshake", "detached", "not-tcp", "memory-limit", "tun-write", "connection-limit", "icmp-error", "connection-lost",
	"signed-segments", "ipv6-extension", "no-port", "unknown-neighbour",
	"old-timestamp", "ack-range", "urgent-mark", "held",
}

func (d Drop) String() string { return dropNames[d] }

// AckCounters count what the gate did to acknowledgements.
type AckCounters struct {
	AcksHeld    atomic.Uint64 // pure ACKs kept back by the gate
	AcksOwed    atomic.Uint64 // ACKs made by the wrap when the gate opened
	AcksDelayed atomic.Uint64 // ACKs that waited for an answer of ours to carry them
	AcksLower   atomic.Uint64 // segments that left with a lowered ACK
}

// OffloadCounters count what was given to Options.Offload.
type OffloadCounters struct {
	Offloaded atomic.Uint64 // connections that were given away
	TakenBack atomic.Uint64 // and that were taken back
}

// Counters counts what the wrap did. All fields only grow.
type Counters struct {
	drops      [numDrops]atomic.Uint64
	PacketsIn  atomic.Uint64
	PacketsOut atomic.Uint64
	BytesIn    atomic.Uint64 // IP bytes
	BytesOut   atomic.Uint64
	AckCounters
	OffloadCounters
	Clamped  atomic.Uint64 // inbound ACKs beyond SND.NXT of a rebuilt leg
	Known    atomic.Uint64 // segments not sent because the peer of a rebuilt leg has them
	Waited   atomic.Uint64 // answers of servers to a SYN kept back until the standby has the record
	Bypassed atomic.Uint64 // segments of no protected flow handed back to the kernel
	Rebuilt  atomic.Uint64 // private handshakes completed
	Parked   atomic.Uint64 // endpoints given back because nothing was going on
	// SYN cookies: SYN-ACKs of which nothing was remembered, and clients that answered.
	CookiesSent, CookiesAccepted atomic.Uint64
	Held                         atomic.Uint64 // segments that came before we were the active, and were treated then
	HandedOn                     atomic.Uint64 // segments given to the peer that continues the connections
	Probes                       atomic.Uint64 // repeated questions where a rebuilt leg's peer is
}

func (c *Counters) drop(d Drop) { c.drops[d].Add(1) }

// Drops returns the count of each reason that occurred.
func (c *Counters) Drops() map[string]uint64 {
	m := make(map[string]uint64)
	for d := Drop(0); d < numDrops; d++ {
		if n := c.drops[d].Load(); n > 0 {
			m[d.String()] = n
		}
	}
	return m
}

// CountNoPort counts a client for whose server no port was left.
func (c *Counters) CountNoPort() { c.drop(DropNoPort) }

// CountConnLimit counts a client turned away because its service is full.
func (c *Counters) CountConnLimit() { c.drop(DropConnLimit) }
