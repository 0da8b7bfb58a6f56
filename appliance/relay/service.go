package relay

import (
	"net/netip"
	"sync/atomic"
	"time"

	"lockstep/appliance/kept"
	"lockstep/appliance/pool"
)

// Service is one protected service.
type Service struct {
	Name          string
	Listen        []netip.AddrPort
	Pool          *pool.Pool     // its servers
	SourceGateway bool           // dial from Gateways instead of the client's address
	Gateways      []netip.Prefix // addresses of our own on the back network, with its length
	MaxHalfOpen   int            // see stack.Engine.Listen
	MaxSource     int            // 0: as MaxHalfOpen
	// Settings are those of the start; those that hold are Now's.
	Settings
	// Drain is how long, after a reset, the other peer may acknowledge nothing of what
	// was sent before it. 0: ten seconds.
	Drain time.Duration

	// Pass: connections are passed on, as far as the standby knows of such, instead of being ended.
	Pass bool
	// TakeUp: one that is passed on is ended here when its client does not read.
	TakeUp bool

	// Kept: a connection outlives its server (protection log or hot), by these options.
	Kept bool
	kept.Options
	// OnNoPort, if set, is told that no port is left for one more connection with a
	// server; it must not block.
	OnNoPort func(server netip.AddrPort)

	changed atomic.Pointer[Settings] // nil: those of the start hold
	serviceCounts
}

// serviceCounts are of its connections: how many there are now, and since the start.
type serviceCounts struct {
	conns, passed, parked atomic.Int64
	takenUp, takeGivenUp  atomic.Uint64
}

// TakenUp counts the service's connections that were passed on and have come to be ended here, and how often
// that was given up.
func (s *Service) TakenUp() (done, givenUp uint64) { return s.takenUp.Load(), s.takeGivenUp.Load() }

// Passed counts those of the service's connections that are passed on.
func (s *Service) Passed() int { return int(s.passed.Load()) }

// Conns counts the service's connections.
func (s *Service) Conns() int { return int(s.conns.Load()) }
