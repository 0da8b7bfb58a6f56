// Package relay carries bytes between the two legs of each connection.
//
// It owns: connections (a client leg and a server leg), the dialling of servers,
// the order of the handshakes, the two streams' offsets, ends and resets, idle
// time-outs, and the workers that do all this without a goroutine per connection.
//
// It must not know: segments and sequence numbers (package stack), how records
// reach the other appliance (Journal), which server is next (package pool), or who is active.
//
// A connection's way: the client's SYN waits while the server is dialled; when
// the server has accepted, the record goes to the journal; when the journal has
// it safe, the client gets its SYN-ACK; then bytes flow. So a client that is
// refused, or whose server is away, sees what it would see without a gateway.
//
// Undelivered bytes stay in the receive queue of the leg they came on, and are
// discarded when the other leg's peer has acknowledged them and that is known to
// the standby: the queue is the retention buffer, from which response bytes can
// still be handed to the journal, from which a connection is adopted for a standby
// that joins later (adopt.go), and its fill is what the sender's window shows.
package relay
