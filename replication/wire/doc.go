// Package wire is the byte format between the nodes: frames between the active and
// the standby, the entries inside a batch, and the frames that carry the voters'
// messages.
//
// It owns: the layout of every frame, its checks (magic, version, length,
// CRC-32C), and the limits of what a peer may claim. Encoding appends to the
// caller's slice; decoding returns values that alias the frame and allocates
// nothing that a claimed length could inflate.
//
// It must not know: what a frame means (that is package replication), how it
// travels (packages link and courier), clocks, sockets, goroutines.
//
// # Frame
//
// All integers are big-endian; varints are the shortest unsigned LEB128 form,
// longer forms are refused so that decoding and encoding are exact inverses.
//
//	 0  magic    4  "LKSP"
//	 4  version  1  of the frame and its payload; checked by Decode (VoterMessage: of
//	                the voters' protocol, for the receiver to check)
//	 5  type     1  Type
//	 6  zero     2  must be zero
//	 8  epoch    8  the active's epoch; 0 in Hello, Reject and the voters' frames
//	16  index    8  Batch, Ack: batch index from 1; Heartbeat, HeartbeatAck: sequence
//	24  length   4  bytes of payload, at most MaxPayload
//	28  crc32c   4  over bytes 0..27 and the payload; of a Batch from version 5 on over
//	                bytes 0..27 only
//	32  payload
//
// The first 32 bytes and the Hello, VoterHello and Reject payloads keep this layout in every
// future version: two appliances of different versions must be able to tell each
// other why they cannot talk. Their header carries MinVersion; all other frames
// carry the version that the session has agreed on.
package wire
