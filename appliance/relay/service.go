package relay

import (
	"net/netip"
	"sync/atomic"
	"time"

	"lockstep/appliance/adapter"
	"lockstep/appliance/pool"
	"lockstep/replication"
)

// Service is one protected service.
type Service struct {
	Name          string
	Listen        []netip.AddrPort
	Pool          *pool.Pool     // its servers
	SourceGateway bool           // dial from Gateways instead of the client's address
	Gateways      []netip.Prefix // addresses of our own on the back network, with its length
	MaxConns      int            // further clients' SYNs are dropped
	MaxHalfOpen   int            // see stack.Engine.Listen
	MaxSource     int            // 0: as MaxHalfOpen
	Idle          time.Duration  // 0: never
	Keepalive     Keepalive
	// Drain is how long, after a reset, the other peer may acknowledge nothing of what
	// was sent before it. 0: drainSilent.
	Drain time.Duration

	// Kept: a connection outlives its server (protection log or hot). What follows is
	// of such services only.
	Kept         bool
	Hot          bool // replicas run beside the source
	ReleaseFirst bool // the client gets each byte from whichever replica has it first
	LogLimit     uint64
	// Patience is how long a connection waits for a server that continues it.
	Patience time.Duration
	// NewAdapter makes what understands the protocol; nil: raw.
	NewAdapter func() adapter.Adapter
	// Ask probes a server, of whose end a connection has heard so long ago, at once and says on any
	// goroutine whether it is the process that it was; nil: every server is.
	Ask func(server int, ago time.Duration, done func(alive bool))
	// OnNoPort, if set, is told that no port is left for one more connection with a
	// server; it must not block.
	OnNoPort func(server netip.AddrPort)
	// OnLoss, if set, is told of servers lost and replaced; it must not block.
	OnLoss func(Loss)
	// OnDivergence, if set, is told what differs; it must not block.
	OnDivergence func(Divergence)

	conns  atomic.Int64
	counts counts
}

// Conns counts the service's connections.
func (s *Service) Conns() int { return int(s.conns.Load()) }

// Loss is one connection's loss of a server, or (Replaced) the end of it.
type Loss struct {
	Conn     replication.ConnID
	Server   int // that was lost, or that goes on
	Why      string
	Source   bool // the client got its bytes
	Replaced bool
	Took     time.Duration // from the loss, with Replaced
}

func (s *Service) note(l Loss) {
	if s.OnLoss != nil {
		s.OnLoss(l)
	}
}

type counts struct {
	lost, failovers, replays, switched, claims atomic.Uint64
	compared, diverged, unverified, givenUp    atomic.Uint64
	logFull, tooSlow, refused                  atomic.Uint64
}

// Counts are what a service of protection log or hot has seen since the start.
type Counts struct {
	Lost       uint64 // sources that were lost
	Failovers  uint64 // sources that were replaced
	Replays    uint64 // legs that were told a request again
	Switched   uint64 // changes of the source by release: first
	Claims     uint64 // ends of a server that a probe had to judge
	Compared   uint64 // digests that were compared
	Diverged   uint64 // replicas whose output was not the same
	Unverified uint64 // connections reset because nobody could tell whether it was
	GivenUp    uint64 // connections reset because no server continued them in time
	LogFull    uint64 // connections whose log has reached its limit
	TooSlow    uint64 // replicas that fell too far behind
	Refused    uint64 // replays that a server has ended too early
}

// Counts returns the counters.
func (s *Service) Counts() Counts {
	c := &s.counts
	return Counts{
		Lost: c.lost.Load(), Failovers: c.failovers.Load(), Replays: c.replays.Load(),
		Switched: c.switched.Load(), Claims: c.claims.Load(), Compared: c.compared.Load(),
		Diverged: c.diverged.Load(), Unverified: c.unverified.Load(), GivenUp: c.givenUp.Load(),
		LogFull: c.logFull.Load(), TooSlow: c.tooSlow.Load(), Refused: c.refused.Load(),
	}
}
