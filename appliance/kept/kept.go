package kept

import (
	"sync"
	"sync/atomic"
	"time"

	"lockstep/appliance/adapter"
	"lockstep/appliance/carry"
	"lockstep/appliance/pool"
	"lockstep/replication"
	"lockstep/stack"
)

// Kept is what a connection of protection log or hot has beside its client leg. Its
// worker owns all but the atomic fields.
type Kept struct {
	id       replication.ConnID
	client   *stack.Leg
	host     Host
	journal  Journal
	pool     *pool.Pool
	svc      *Options
	flags    *carry.Flags
	drainFor time.Duration

	streams [2]carry.Stream // indexed by replication.Stream
	requestState
	responseState
	serverState
	drain carry.Draining // one end has gone, what it has sent goes to the other first

	// What the journal, the packet path and the status read, or tell.
	all      atomic.Pointer[[]*replica] // copied on change
	told     atomic.Uint64              // released, as the journal knows it
	unlogged atomic.Bool                // the journal has given up the log by itself
	gauge    gauge

	lifeState
}

// lifeState is how far the connection is.
type lifeState struct {
	first     int // the server that is dialled as soon as there is a line to it, or at dialBy
	dialBy    time.Duration
	ready     atomic.Bool
	over      bool // reset, or nothing is left of it
	lingering bool // over for the client; replicas of its server go on
	lingerTo  time.Duration
	wakeDue   time.Duration // when a timer will wake it
	parked    bool
	building  bool          // it was parked, and endpoints are on their way
	unparked  time.Duration // since when
}

// requestState is the request since the last checkpoint.
type requestState struct {
	log  requestLog
	ckpt [2]uint64   // a new server starts here, by Stream
	cuts [][2]uint64 // checkpoints whose response the client has not acknowledged
	// plain: the log has reached its limit; nothing is kept but what some leg lacks.
	plain bool
	turns replication.Turns // at which pace the client has sent what is in the log
	taken uint64            // of the request, by a server that was retired
}

// responseState is what is known of the response that the client has got.
type responseState struct {
	seen verified
	ad   adapter.Adapter // follows what was released
	// held are response bytes from heldAt on that are in no receive queue, or may
	// vanish from it: the standby has them, and the server may have been told so.
	held   []byte
	heldAt uint64
	stash  stash
	// formerTo is where those end that are a former source's.
	formerTo   uint64
	unlike     *replica // has not sent the same as the former source there
	restored   bool     // continued from another appliance, see vouched
	restoredAt time.Duration
	askAt      time.Duration // earliest next time that the client is asked how far it is
	sourceAt   time.Duration // earliest next time that the source is asked, see askSource
}

// lossState is since when there is no source, and why.
type lossState struct {
	lostAt  time.Duration // 0: there is one
	lostWhy string
	gain    gain
}

// serverState is who serves, and who may.
type serverState struct {
	lossState
	source    *replica        // whose bytes the client gets; nil: none can
	claim     claim           // of the source that it has ended
	last      int             // the server that was chosen last; the next search begins behind it
	refusedBy map[int]refusal // by server: replays that it has ended too early; nil: none
	bad       uint64          // servers that have diverged on this connection, by bit
	proof     *replica        // of a source that was lost, see letGo; nil: nobody needs it
	retryAt   time.Duration   // earliest next dial
	suspect   uint64          // one behind the offset at which a living server has ended too early
	quiet     quiet           // of the source while a replica is ahead of it

	// recording makes one step of a change of the recorded leg, and of telling what the
	// recorded leg's server has acknowledged. Beneath it only the journal's own locks.
	recording sync.Mutex
	server    replication.LegRecord // the leg that the journal knows
	start     [2]uint64             // and where it begins
	legOut    atomic.Bool           // the standby may not hold that leg yet
	// Of a source that cannot be recorded yet: how far it had got, and since when.
	lagging  *replica
	lagAt    uint64
	lagSince time.Duration
}

// New makes what carries a connection once Dial or Restore has given it a server.
func New(c Conn) *Kept {
	k := &Kept{
		id: c.ID, client: c.Client, host: c.Host, journal: c.Journal, pool: c.Pool, svc: c.Options, flags: c.Flags,
		drainFor: c.Drain,
	}
	k.seen.open = newDigest(0)
	k.ad = k.svc.newAdapter()
	k.all.Store(new([]*replica))
	return k
}

// Step does whatever there is to do for an open connection, whose legs are attached, or
// for what is left of one. again asks for another turn.
func (k *Kept) Step() (again bool) {
	k.letGo()
	if k.lingering {
		k.linger()
		return false
	}
	k.askSource()
	if k.parked || k.building && !k.built() {
		return false
	}
	if k.client.Err() != nil {
		k.stepClientGone()
		return false
	}
	again = k.takeRequest()
	for _, r := range k.replicas() {
		k.follow(r)
		r.feed(k)
	}
	k.dismiss()
	if k.over {
		return false
	}
	if k.source == nil && k.streams[replication.Response].FinPassed {
		k.stepServed()
		return false
	}
	before := k.source
	k.elect()
	if k.over {
		return false
	}
	k.move()
	if k.source != before || k.answered() {
		again = true // what waited for the former one need not any more, and who waited for its turn gets on
	}
	if k.releaseResponse() {
		again = true
	}
	if k.over {
		return false
	}
	k.record()
	k.undecided()
	k.checkpoint()
	k.ship()
	k.trim()
	if k.finished() {
		k.finish()
		return false
	}
	k.recruit()
	k.measure()
	return again && !k.over && !k.lingering
}

func (k *Kept) replicas() []*replica { return *k.all.Load() }

// addReplica makes r one of the connection's legs: the gate holds for it as for the others.
func (k *Kept) addReplica(r *replica) {
	all := append(append([]*replica(nil), k.replicas()...), r)
	k.all.Store(&all)
	r.permit(k.streams[replication.Response].Permit.Load())
	r.leg.PassAsks()
	if !k.flags.Protected.Load() && k.flags.Opened.Load() {
		r.leg.Open()
	}
}

func (k *Kept) remove(r *replica) {
	var all []*replica
	for _, x := range k.replicas() {
		if x != r {
			all = append(all, x)
		}
	}
	k.all.Store(&all)
	if k.source == r {
		k.source = nil
	}
}

// wakeAt runs the connection again at t.
func (k *Kept) wakeAt(t time.Duration) {
	now := k.host.Now()
	if k.wakeDue > now && k.wakeDue <= t {
		return
	}
	k.wakeDue = max(t, now+time.Millisecond)
	time.AfterFunc(k.wakeDue-now, k.host.Wake)
}
