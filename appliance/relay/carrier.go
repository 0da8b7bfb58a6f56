package relay

import (
	"net/netip"
	"time"

	"lockstep/appliance/carry"
	"lockstep/appliance/kept"
	"lockstep/replication"
)

// carrier carries the bytes of a connection between its client leg and its servers. A
// connection has one for each server that it dials, until one has answered; that one it
// keeps. There are two: plain, whose connection ends with its server, and kept.Kept, whose
// does not.
//
// It is made of what each of its users asks for. The worker calls all but ledger, which the
// journal and the packet path call at any time once the journal knows the connection, and
// Draining, which anybody may call from then on.
type carrier interface {
	opener
	runner
	ledger
	adoptable
	asker
	described
}

// opener is a carrier up to the client's completed handshake, in the order of conn.go.
type opener interface {
	// Dial dials the i-th server. Answered reports whether that has answered, or why it
	// will not.
	Dial(i int) error
	Answered() (yes bool, err error)
	// Begin is called when it has, before the journal is told. It returns what the record
	// says of the server's leg, and whether the request is logged.
	Begin() (leg replication.LegRecord, logged bool)
	// Refused is why the server has ended its leg without having said anything, if that is
	// what the client is to learn while it waits for its SYN-ACK.
	Refused() error
	// Gone reports whether a leg has ended in the handshake that the connection cannot do
	// without, and has left nothing for the other.
	Gone() bool
	// Complete lets the servers know that the client has completed its handshake.
	Complete()
	// Opens reports whether the connection is open as soon as the client's endpoint is
	// there.
	Opens() bool
}

// runner is what a connection's worker turns, and ends.
type runner interface {
	// Attach builds the endpoints that are due: of legs whose peers are established. Whole
	// reports whether none is missing.
	Attach()
	Whole() bool
	// Park gives all endpoints back, if nothing is going on and nothing has come for rest.
	Park(rest time.Duration) bool
	// Parked reports whether it has, and none is due again.
	Parked() bool
	// Step does whatever there is to do. again asks for another turn.
	Step() (again bool)
	// Abort resets the servers' legs, Drop ends them without a word.
	Abort()
	Drop()
}

// ledger is a carrier as the journal and the packet path see it: Conn.Permit, Need, Unprotect.
type ledger interface {
	Permit(s replication.Stream, off uint64)
	Need(s replication.Stream, from, to uint64)
	OpenGates()
	// Deliver notes that the receiver of s has acknowledged everything below off, and
	// tells the journal; Delivered is how far that is.
	Deliver(s replication.Stream, off uint64)
	Delivered(s replication.Stream) uint64
}

// adoptable is told to a standby that joins, in three steps: see adopt.go.
type adoptable interface {
	// CloseGates is false, and has done nothing, as long as the connection has to wait.
	CloseGates() (g carry.Gates, ok bool)
	Picture(carry.Gates) (p carry.Picture, ok bool)
	Adopted(*carry.Picture)
}

// asker finds dead peers: see alive.go.
type asker interface {
	// PassAsks makes the servers' keepalives ours, Pass passes them and the client's on,
	// Probe asks the servers that are silent.
	PassAsks()
	Pass(client *carry.Asked)
	Probe(k *carry.Keepalive, next time.Duration) time.Duration
	// Draining reports whether one end has gone, and what it has sent is still delivered.
	Draining() bool
}

// described says how a connection stands, for waits.go and debug.go.
type described interface {
	// RequestLeft reports whether there is more of the request in the client's receive
	// queue.
	RequestLeft() bool
	// Waits says what an open connection waits for, empty if for nothing; Text how its
	// streams and servers stand.
	Waits() string
	Text() string
	// Server is the address of the one that the client has to do with, zero if there is none at present.
	Server() netip.AddrPort
}

// outliving is what only a carrier has whose connection outlives its servers; of any other there is
// nothing to tell. Anybody may call it once the journal knows the connection.
type outliving interface {
	Unlogged() // see Conn.Unlogged
	LegHeld()  // see Conn.LegHeld
	AddTo(*kept.Gauge)
}

var (
	_ carrier   = (*plain)(nil)
	_ carrier   = (*kept.Kept)(nil)
	_ outliving = (*kept.Kept)(nil)
	_ kept.Host = host{}
)

// newCarrier makes one for the next server. outlives: the service's connections do, or this
// one does.
func (c *Conn) newCarrier(outlives bool) carrier {
	if !outlives {
		return &plain{c: c}
	}
	return kept.New(kept.Conn{
		ID: c.ID, Client: c.client, Host: host{c}, Journal: c.r.journal, Pool: c.svc.Pool,
		Options: &c.svc.Options, Flags: &c.flags, Drain: c.svc.Drain,
	})
}
