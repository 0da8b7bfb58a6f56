package kept

import (
	"sync/atomic"
	"time"

	"lockstep/appliance/adapter"
	"lockstep/appliance/carry"
	"lockstep/appliance/pool"
	"lockstep/replication"
	"lockstep/stack"
)

// Host is the connection around a Kept: what runs it, and what ends with it. All but Wake
// are called by the connection's worker only, from within the methods of Kept.
type Host interface {
	// Now is the time since some beginning, the same for all connections.
	Now() time.Duration
	// Wanted reports whether a standby that joins waits for the connection; Unwanted has it
	// wait no more.
	Wanted() bool
	Unwanted()
	// Wake has Step called soon. It may be called from any goroutine, also with netstack's
	// locks held.
	Wake()
	// Dial opens a leg to the i-th server of the pool, with ev told of its events.
	Dial(i int, ev stack.Events) (*stack.Leg, error)
	// Restore makes a leg go on that another appliance has had.
	Restore(p stack.Params, r stack.Resume, ev stack.Events) (*stack.Leg, error)
	// Serves says that the client gets the bytes of the i-th server from now on.
	Serves(i int)
	// Abort resets the connection; Kept.Abort is called within.
	Abort()
	// Ended says that the connection is over for its client, and closed in the journal;
	// Step is called on until Done.
	Ended()
	// Done says that nothing is left of it.
	Done()
}

// Journal is where the connection is kept safe. Its methods must not block.
type Journal interface {
	carry.Teller
	Delivered(id replication.ConnID, s replication.Stream, off uint64)
	Close(id replication.ConnID, k replication.CloseKind)
	// Released says how far the response was released, and its digest; Checkpoint where a
	// new server starts; ServerLeg which leg serves now, answered by LegHeld; Unlog that the
	// log is given up.
	Released(id replication.ConnID, r replication.Released)
	Checkpoint(id replication.ConnID, off [2]uint64)
	ServerLeg(id replication.ConnID, leg replication.LegRecord, start [2]uint64)
	Unlog(id replication.ConnID)
	// Forgo gives up the protection of a connection whose leg cannot be told.
	Forgo(id replication.ConnID)
	// Congested: request bytes should be left in their receive queues until the
	// next permit; their senders' windows fill up meanwhile.
	Congested() bool
}

// Conn is what a Kept is made for.
type Conn struct {
	ID      replication.ConnID
	Client  *stack.Leg
	Host    Host
	Journal Journal
	Pool    *pool.Pool
	Options *Options
	Flags   *carry.Flags  // the connection's
	Drain   time.Duration // as carry.Draining.Late's silent
}

// Options are a service's whose connections outlive their servers.
type Options struct {
	Hot          bool // replicas run beside the source
	ReleaseFirst bool // the client gets each byte from whichever replica has it first
	LogLimit     uint64
	// Patience is how long a connection waits for a server that continues it.
	Patience time.Duration
	// NewAdapter makes what understands the protocol; nil: raw.
	NewAdapter func() adapter.Adapter
	// Line names the process that a connection to a server dialled from now on is to; 0, or a
	// nil Line: nothing will show whether that one still lives. It must not block.
	Line func(server int) uint64
	// Ready reports whether there is no use in waiting for a line before a server is dialled;
	// else wake is called when there is none any more. It must not block. nil: there is none.
	Ready func(server int, wake func()) bool
	// Ask asks at once what has become of the process of a line, and says it on any goroutine;
	// nil: every process lives.
	Ask func(server int, line uint64, done func(Fate))
	// OnLoss, if set, is told of servers lost and replaced; it must not block.
	OnLoss func(Loss)
	// OnDivergence, if set, is told what differs; it must not block.
	OnDivergence func(Divergence)

	counts counts
}

// Fate is what is known of the process of a server's leg that has ended.
type Fate uint32

const (
	Dead     Fate = iota + 1 // it does not answer, or it is not the same any more
	Alive                    // it has shown after the end that it lives
	Unproven                 // somebody answers, and nothing shows whether it is the same process
)

// newAdapter makes the protocol's adapter.
func (o *Options) newAdapter() adapter.Adapter {
	if o.NewAdapter == nil {
		return adapter.Raw{}
	}
	return o.NewAdapter()
}

// raw: every byte counts.
func raw(ad adapter.Adapter) bool {
	_, is := ad.(adapter.Raw)
	return is
}

// Loss is one connection's loss of a server, or (Replaced) the end of it.
type Loss struct {
	Conn     replication.ConnID
	Server   int // that was lost, or that goes on
	Why      string
	Source   bool // the client got its bytes
	Replaced bool
	Took     time.Duration // from the loss, with Replaced
}

func (o *Options) note(l Loss) {
	if o.OnLoss != nil {
		o.OnLoss(l)
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
func (o *Options) Counts() Counts {
	c := &o.counts
	return Counts{
		Lost: c.lost.Load(), Failovers: c.failovers.Load(), Replays: c.replays.Load(),
		Switched: c.switched.Load(), Claims: c.claims.Load(), Compared: c.compared.Load(),
		Diverged: c.diverged.Load(), Unverified: c.unverified.Load(), GivenUp: c.givenUp.Load(),
		LogFull: c.logFull.Load(), TooSlow: c.tooSlow.Load(), Refused: c.refused.Load(),
	}
}
