// Package stack is TCP as the appliance sees it: gVisor's netstack, unmodified,
// behind a small interface, and beneath it the wrap (FT-TCP's south-side wrap)
// that every segment passes on its way between the TUN device and netstack.
//
// It owns: the netstack instance, the table of legs (one leg is one TCP
// connection between this appliance and one peer, client or server), the
// translation of sequence numbers and timestamps between the wire and netstack,
// the gate that keeps an ACK back until it is permitted, the SYN half of the
// client's handshake, and the rebuilding of a leg in a fresh endpoint.
//
// It must not know: configuration, services' policies, the other appliance, or
// why an ACK is permitted. It is told (Leg.Permit, Leg.Open, Engine.SetActive).
//
// # Spaces
//
// A segment has wire numbers outside and stack numbers inside:
//
//	wire SEQ   = stack SEQ + seqDelta      (our direction)
//	wire ACK   = stack ACK                 (the peer's direction is not shifted:
//	                                        the private handshake fixes RCV.NXT)
//	wire TSval = stack TSval + tsDelta
//
// Outside this package positions are stream offsets (uint64, from the first byte
// after the SYN; the FIN counts as one byte), never sequence numbers.
//
// # Locks
//
// endpoint's own lock > Leg.outMu > Leg.mu > table shard. Nothing of netstack is
// called with mu held; DeliverNetworkPacket is called with outMu held only in
// the private handshake, where netstack queues the segment and returns.
package stack
