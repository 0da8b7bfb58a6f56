// Package replication decides what of each TCP connection the standby must know,
// when it knows it, and therefore which ACKs may leave the active.
//
// It owns: the active's table of streams and offsets, the batches on their way to
// the standby, the standby's store of records and bytes, epochs and heartbeats.
//
// It must not know: sockets, clocks, goroutines, locks, loggers. It is a pure state
// machine: the same calls with the same arguments give the same results, byte for
// byte. Whoever drives it passes the time in, calls it from one goroutine at a time,
// writes what Flush appends to the sync link, and carries out what Ready returns.
//
// # The rule
//
// No byte is acknowledged to its sender before it is safe somewhere else: the
// standby holds it, or its receiver has acknowledged it and the standby knows that.
//
// A connection has two streams, Request (client to server) and Response. Positions
// are byte offsets from the stream's first byte; the FIN counts as one byte after
// the last. For each stream the active keeps
//
//	received   contiguous bytes read from the sender
//	shipped    bytes given to the standby, perhaps not confirmed (the standby's end)
//	held       the part of shipped that the standby has confirmed
//	delivered  bytes acknowledged by the receiver
//	reported   the part of delivered that the standby was told
//	known      the part of reported that the standby has confirmed
//	permit     max(held, known), but see conn.allowed for the FIN: an ACK to the sender
//	           may cover it; never goes back
//
// and these hold at all times (see Core.Check):
//
//	known <= reported <= delivered <= received
//	held  <= shipped  <= received
//	permit <= max(held, known) <= received
//
// (delivered <= received holds for what counts of it: after a takeover a receiver can be
// ahead of what the new active has, see half.safe.)
//
// Request bytes are shipped at once. Response bytes stay with the server until they
// have been pending for Limits.ShipAfter, because the server has them until it is
// acknowledged; Ready.Need then asks for them.
//
// A logged connection survives its server, too: see log.go for what is kept of it and
// which further inequalities hold.
//
// # A session
//
//	active                                     standby
//	PeerJoined: new session, index 1           PeerJoined: store emptied, not in sync
//	  Ready: Adopt (see snapshot.go)
//	  Adopt, Flush: Batch 1 {Adopt ...} ---->  Step: applied
//	  Flush: Batch n {..., Synced, ...} ---->  Step: applied, in sync
//	  Step: confirms                    <----  Flush: Ack n
//	  Ready: Opened, Permits ...
//	PeerLost: every gate opens,                PeerLost: store is kept
//	  all connections Unprotected                Takeover: everything is handed out
//
// Who calls PeerLost on the active and who calls Takeover on the standby must never
// both happen for one session: that is the arbiter's decision (a committed change of
// the in-sync set), which comes in through these calls and SetRole's epoch.
package replication
