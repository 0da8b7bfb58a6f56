package relay

import (
	"cmp"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/appliance/kept"
	"lockstep/replication"
	"lockstep/stack"
)

// Journal is where connections are kept safe. Its methods are called from
// workers and from the packet path; they must not block. It calls a Conn's
// Opened, LegHeld, Permit, Need, Adopt, Unlogged and Unprotect, never from within these methods with a
// lock of its own held.
type Journal interface {
	// Open announces a connection. The journal calls c.Protect at once if its
	// gates are to close, and c.Opened when the SYN-ACK may leave.
	Open(c *Conn, r replication.Record)
	// Data and Received: see package carry. Of the response only what is asked for by
	// Need comes as Data.
	kept.Journal
	// MaySplice reports whether a connection that is passed on would be protected as another is.
	MaySplice() bool
	// Terminate announces that a connection which was passed on is ended here, from where pos says: its gates
	// are closed. An error means that nobody keeps it. MayTerminate reports whether it would be kept.
	Terminate(r replication.Record, pos [2]replication.StreamPos) error
	MayTerminate() bool
	// Continued tells of a connection of a takeover's rest that it is continued now.
	Continued(id replication.ConnID)
	// Adopt announces a connection that has run without the journal, in answer to
	// c.Adopt: its gates are closed and it is to be kept from where pos says. An error
	// means that it is not. The slices are valid during the call only.
	// l is what else there is to know of a kept connection, nil for others.
	Adopt(c *Conn, r replication.Record, pos [2]replication.StreamPos, l *replication.Log) error
}

// tables are of the connections.
type tables struct {
	conns  map[replication.ConnID]*Conn
	list   []watched                  // the same, for the janitor
	asking map[netip.AddrPort][]*Conn // by client: those of which a wrapped server may ask, see Served; the newest last
}

// Relay holds all connections of the active appliance.
type Relay struct {
	engine  *stack.Engine
	journal Journal
	sched   *scheduler
	start   time.Time

	mu       sync.Mutex
	services map[netip.AddrPort]*Service
	byName   map[string]*Service
	tables
	epoch uint64
	seq   uint64
	over  chan struct{} // closed when no connection is left, see End; nil: clients may come

	resting atomic.Pointer[resting] // nil but for the time after a takeover, see Rest

	aborted, finishedN, stuckN atomic.Uint64
	taking                     atomic.Int64 // connections that are being taken up, or were
	onStuck                    atomic.Pointer[func(text string, ended bool)]

	done chan struct{}
	wg   sync.WaitGroup
}

// New makes a relay for an engine (given by SetEngine, since the engine wants
// the relay as its handler).
func New(services []*Service, j Journal) *Relay {
	r := &Relay{
		journal: j, start: time.Now(), services: make(map[netip.AddrPort]*Service),
		byName: make(map[string]*Service), tables: tables{conns: make(map[replication.ConnID]*Conn), asking: make(map[netip.AddrPort][]*Conn)},
		done: make(chan struct{}), sched: newScheduler(runtime.GOMAXPROCS(0)),
	}
	for _, s := range services {
		r.byName[s.Name] = s
		if s.Kept {
			s.Pool.OnCheck(func(again bool) { r.checked(s, again) })
		}
		for _, a := range s.Listen {
			r.services[a] = s
		}
	}
	r.wg.Add(1)
	go r.janitor()
	return r
}

// SetEngine must be called once before the engine runs.
func (r *Relay) SetEngine(e *stack.Engine) {
	r.engine = e
	for a, s := range r.services {
		e.Listen(a, s.MaxHalfOpen, cmp.Or(s.MaxSource, s.MaxHalfOpen))
		if !s.SourceGateway {
			e.Behind(a, s.Pool.Servers())
		}
		e.Pass(a, func(client netip.AddrPort) bool { return r.passes(s, client) })
	}
}

func (r *Relay) now() time.Duration { return time.Since(r.start) }

// SetEpoch starts a new range of connection numbers; they never repeat within a
// pair, because epochs do not.
func (r *Relay) SetEpoch(epoch uint64) {
	r.mu.Lock()
	r.epoch, r.seq = epoch, 0
	r.mu.Unlock()
}

// Incoming implements stack.Handler.
func (r *Relay) Incoming(l *stack.Leg) {
	c := &Conn{r: r, client: l, born: r.now(), standing: standing{unproven: !l.Confirmed()}}
	l.SetEvents(c)
	switch ok, over := r.admit(c); {
	case ok:
		r.sched.add(c, false)
	case over:
		l.Refuse()
	default:
		l.Drop()
	}
}

// admit makes c a connection of the service that its client has called. over: nobody is let in any more.
func (r *Relay) admit(c *Conn) (ok, over bool) {
	vip, client := c.ends()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over != nil {
		return false, true
	}
	c.svc = r.services[vip]
	if c.svc == nil || c.svc.conns.Load() >= int64(c.svc.Now().MaxConns) {
		r.engine.C.CountConnLimit()
		return false, false
	}
	r.seq++
	c.ID = replication.ConnID(r.epoch<<32 | r.seq&0xffffffff)
	r.enter(c, client)
	c.svc.conns.Add(1)
	return true, false
}

// Protect is called by the journal within Open: the gates close for c.
func (c *Conn) Protect() { c.flags.Protected.Store(true) }

func (r *Relay) ended(c *Conn, aborted bool) {
	if aborted {
		r.aborted.Add(1)
	} else {
		r.finishedN.Add(1)
	}
	c.rebuilt()
	c.noteParked(false)
	c.left()
	_, client := c.ends()
	r.mu.Lock()
	if _, was := r.conns[c.ID]; was {
		delete(r.conns, c.ID)
		r.unwatch(c)
		r.noMore(c, client)
		if r.over != nil && len(r.conns) == 0 {
			close(r.over)
		}
	}
	r.mu.Unlock()
	c.svc.conns.Add(-1)
	if c.takingSince.Load() != 0 {
		r.taking.Add(-1)
	}
	if c.isPassed() {
		c.svc.passed.Add(-1)
	}
}

// Lookup finds a connection for the journal.
func (r *Relay) Lookup(id replication.ConnID) *Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.conns[id]
}

// checked is called after a health check that a server of s has failed, or after which it
// is well again: kept connections that it serves go on with another one. That it still
// fails is news only for who has tried it in its need.
func (r *Relay) checked(s *Service, again bool) {
	r.Each(func(c *Conn) {
		if c.svc == s && (!again || c.orphan()) {
			r.sched.add(c, false)
		}
	})
}

// Rearranged is called when the servers of s, or what they are to have, have changed: kept connections may have to leave one.
func (r *Relay) Rearranged(s *Service) {
	if s.Kept {
		r.checked(s, false)
	}
}

// Each calls f for all connections; f must not call the relay.
func (r *Relay) Each(f func(*Conn)) {
	r.mu.Lock()
	all := make([]*Conn, 0, len(r.list))
	for _, w := range r.list {
		all = append(all, w.c)
	}
	r.mu.Unlock()
	for _, c := range all {
		f(c)
	}
}

// Counts returns open connections, those ended in order and those reset.
func (r *Relay) Counts() (open int, finished, aborted uint64) {
	r.mu.Lock()
	open = len(r.conns)
	r.mu.Unlock()
	open += r.Resting()
	return open, r.finishedN.Load(), r.aborted.Load()
}

// Reset ends all connections without a word to their peers: this appliance is no
// longer the active, somebody else may be continuing them.
func (r *Relay) Reset() {
	r.dropRest()
	r.Each(func(c *Conn) { c.kill(true) })
}

// answersWait is for how long End waits for answers: a round trip, of most peers.
const answersWait = 200 * time.Millisecond

// End resets all connections to both sides and lets nobody in any more, as a host does
// that shuts down. It waits until that is done, no longer than limit, and returns how many
// there were. Of those that are passed on only their ends know where they are; what they answer
// is waited for, since a RST from there follows. Of a takeover's rest that cannot be made in half of
// the time a RST answers what its ends say. It is called once.
func (r *Relay) End(limit time.Duration) (n int) {
	end := r.now() + limit
	forgotten := r.endRest(limit / 2) // the other half is for the resets
	over := make(chan struct{})
	r.mu.Lock()
	r.over, n = over, len(r.conns)
	answers := time.Duration(0)
	for _, c := range r.conns {
		if c.isPassed() {
			answers = answersWait
			break
		}
	}
	if n == 0 {
		close(over)
	}
	r.mu.Unlock()
	r.Each(func(c *Conn) { c.kill(false) })
	select {
	case <-over:
	case <-time.After(end - r.now()):
	}
	select {
	case <-time.After(answers):
	case <-r.done:
	}
	return n + forgotten
}

// Close stops the workers. The engine must be muted or closed before.
func (r *Relay) Close() {
	close(r.done)
	r.wg.Wait()
	r.sched.close()
}
