// Package splice passes a connection on that need not be ended: what a client sends to a virtual
// address goes to its server with other addresses and nothing else changed, and back.
//
// # What it owns
//
// A [Conn] is one spliced connection: four addresses, the differences of checksums between them,
// and a tracker of what each end has sent and acknowledged. It translates segments, superpackets and
// ICMP errors in place, makes the few packets that are said in an end's name (RST, probe, SYN), and
// says when the connection begins, ends, and has ended. Times are given to it; it has no clock, no
// lock and no table: who found the connection for a packet is the caller, who also has verified
// the checksum (or knows that the kernel has).
//
// It knows nothing of netstack's endpoints, of replication, services, roles or sockets.
//
// # What the tracker believes
//
// A segment is passed on whether it is believed or not: the ends judge it themselves (RFC 9293,
// RFC 5961), as they would without a gateway. What the tracker believes decides only what the gateway
// does of its own accord, above all when it forgets the connection. So it believes a segment only if its
// receiver would: inside the window that the receiver has announced, its ACK of something that was
// sent, a RST only from exactly where the receiver is. And an end is no end before nobody contradicts it: a
// tombstone goes on passing segments on, and one that the receiver of a RST does not respect is
// none ([EventRevived]).
//
// After a takeover the tracker knows addresses and what the handshake has settled, not where the two
// are ([Conn.Restore]). It learns that from a segment of each side which agree with each other. Since
// somebody may have forged both, what rests on learnt numbers alone is asked about before it is
// acted on ([Conn.Ask]).
package splice
