package replication

import "lockstep/replication/wire"

// Limits bounds everything the core keeps, and sets its periods. A zero field takes
// its default. Both appliances should have the same; where the standby's are lower
// it refuses single connections, which then go on unprotected.
type Limits struct {
	// MaxConns is how many connections can be protected. One more is opened
	// unprotected at once: its gate is open from the start. Default 200000.
	MaxConns int
	// MaxHeldPerStream bounds the bytes the standby keeps of one stream. A
	// connection that would exceed it loses its protection (once the standby has
	// confirmed that it forgot it, its gate opens). It must be larger than what the
	// relay buffers per direction. Default 16 MiB.
	MaxHeldPerStream uint64
	// MaxHeldTotal bounds the bytes the standby keeps of all streams. The connection
	// that would exceed it loses its protection. Default 1 GiB.
	MaxHeldTotal uint64
	// MaxPending bounds what waits on the active for a batch in flight, bytes. From
	// half of it on Congested tells the shell to read less; the connection that would
	// exceed it loses its protection. Default 64 MiB.
	MaxPending int
	// MaxOutstanding is how many batches are in flight. More only wait, and
	// gather in the next one (group commit). Default 4.
	MaxOutstanding int
	// MaxOutstandingQuiet is how many batches may be in flight before one that would
	// carry nothing but delivery reports is kept back. They hold up only the ACKs of
	// downloads, and each batch costs both sides a system call. Default 2.
	MaxOutstandingQuiet int
	// MaxOutstandingDigests is how many may be in flight before a digest of what a
	// client is being sent waits: nobody can vouch for bytes whose digest is lost with
	// the active. Default 32.
	MaxOutstandingDigests int
	// MaxBatchBytes is the size from which on a batch is closed and the next one
	// begun. At most 512 KiB. Default 256 KiB.
	MaxBatchBytes int
	// ShipAfter is how long response bytes may stay pending before they are shipped:
	// less than the server's retransmission time-out (200 ms). Default 100 ms.
	ShipAfter Nanos
	// Linger is how long the standby keeps a tombstone of a finished connection:
	// as long as a peer may retransmit its FIN. Default 60 s.
	Linger Nanos
	// MaxTombstones bounds them; the oldest goes first, counted. Default 65536.
	MaxTombstones int
	// MaxLives bounds the lives that determinants belong to. One more is refused: its servers
	// have results of their own. Default 65536.
	MaxLives int
	// MaxDecidedPerLife and MaxDecidedTotal bound what the determinants of a life, and of all, take on each of the two, bytes. What
	// would exceed them is not decided, and nothing more in that life. Default 16 MiB, 256 MiB.
	MaxDecidedPerLife, MaxDecidedTotal int
	// Heartbeat is the period of heartbeats. Default 20 ms.
	Heartbeat Nanos
	// FailureTimeout is how long the peer may be silent before PeerSilent says so.
	// Default 100 ms.
	FailureTimeout Nanos
}

// maxBatchBytes leaves room in a frame for the entries that are added when a batch
// is closed.
const maxBatchBytes = wire.MaxPayload / 2

// withDefaults returns l with every zero or impossible field replaced.
func (l Limits) withDefaults() Limits {
	def(&l.MaxConns, 200_000)
	def(&l.MaxHeldPerStream, 16<<20)
	def(&l.MaxHeldTotal, 1<<30)
	def(&l.MaxPending, 64<<20)
	def(&l.MaxOutstanding, 4)
	def(&l.MaxOutstandingQuiet, 2)
	def(&l.MaxOutstandingDigests, 32)
	def(&l.MaxBatchBytes, 256<<10)
	def(&l.ShipAfter, 100*millisecond)
	def(&l.Linger, 60*second)
	def(&l.MaxTombstones, 1<<16)
	def(&l.MaxLives, 1<<16)
	def(&l.MaxDecidedPerLife, 16<<20)
	def(&l.MaxDecidedTotal, 256<<20)
	def(&l.Heartbeat, 20*millisecond)
	def(&l.FailureTimeout, 100*millisecond)
	l.MaxBatchBytes = min(max(l.MaxBatchBytes, minBatchBytes), maxBatchBytes)
	l.MaxOutstandingQuiet = min(l.MaxOutstandingQuiet, l.MaxOutstanding)
	l.MaxOutstandingDigests = max(l.MaxOutstandingDigests, l.MaxOutstanding)
	return l
}

// minBatchBytes lets every small entry fit in an empty batch beside its header.
const minBatchBytes = wire.HeaderLen + 4*wire.MaxSmallEntry

// def sets *v to d unless it is positive.
func def[T int | uint64 | Nanos](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}
