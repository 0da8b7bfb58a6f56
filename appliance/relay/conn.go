package relay

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"lockstep/appliance/carry"
	"lockstep/appliance/pool"
	"lockstep/replication"
	"lockstep/stack"
)

// phase of a connection; it only moves forward.
type phase uint8

const (
	phaseDialing   phase = iota // the client's SYN waits for the server
	phaseOpening                // the record is on its way to safety
	phaseAccepting              // the SYN-ACK left; the client's ACK is awaited
	phaseOpen
	phaseLingering // over for the client, and for the journal; its carrier goes on with other servers
	phaseDone
)

// Conn is one client's connection. A worker owns all but the atomic fields while
// it runs step; events only set atomics and schedule it. There may be a million: the order of its fields leaves no gaps.
type Conn struct {
	ID  replication.ConnID
	svc *Service
	r   *Relay

	passage
	client *stack.Leg
	// carrier is nil until a server is dialled, and stays the same once begun is set; before
	// that only the worker may look at it.
	carrier carrier
	standing
	choosing
	born   time.Duration
	stepAt atomic.Int64 // Duration of the last step: activity
	alive  alive

	flags    carry.Flags
	begun    atomic.Bool // the journal is being told of it
	schedule atomic.Uint32
	bulk     atomic.Bool // waits in the bulk queue
	killed   atomic.Uint32
	rebuild  atomic.Pointer[rebuilding] // set while a takeover's endpoints are due
}

// standing is how far it has come.
type standing struct {
	phase    phase
	unproven bool        // the client has not shown yet that it is there, see prove
	stuck    bool        // it waited for nothing when it was last looked at
	restored bool        // of one that is passed on: after a takeover
	wanted   atomic.Bool // the journal has asked for it, see adopt.go
}

// choosing is which servers a connection has tried.
type choosing struct {
	tried     *triedServer // that have refused it, or not answered; the last one first
	serverIdx int32        // the one that is dialled
	counted   int32        // 1 and the server at which the pool counts it; 0: none
}

// triedServer is one of them. Most connections have none.
type triedServer struct {
	index  int
	before *triedServer
}

func (t *triedServer) has(i int) bool {
	return t != nil && (t.index == i || t.before.has(i))
}

// Wake implements stack.Events.
func (c *Conn) Wake(*stack.Leg) { c.soon() }

// soon has a worker run the connection, also if it waits in the bulk queue: its legs are wanted now.
func (c *Conn) soon() {
	if c.bulk.CompareAndSwap(true, false) {
		c.r.sched.hasten(c)
		return
	}
	c.r.sched.add(c, false)
}

// kill asks the worker to reset the connection. Only the worker may end legs:
// it may be reading from their receive queues.
func (c *Conn) kill(silent bool) {
	if silent {
		c.killed.Store(killSilent)
	} else {
		c.killed.CompareAndSwap(killNot, killReset)
	}
	c.soon()
}

// Values of Conn.killed.
const (
	killNot uint32 = iota
	killReset
	killSilent // without a word to the peers
)

// Delivered implements stack.Events.
func (c *Conn) Delivered(_ *stack.Leg, off uint64) {
	if c.begun.Load() {
		c.carrier.Deliver(replication.Response, off)
	}
	c.soon()
}

// Opened is called by the journal when the record is safe.
func (c *Conn) Opened() {
	c.flags.Opened.Store(true)
	c.r.sched.add(c, false)
}

// Unprotect is called by the journal when this connection is no longer kept
// elsewhere: nothing is waited for any more.
func (c *Conn) Unprotect() {
	c.openGates()
	if !c.isPassed() {
		c.r.sched.add(c, false)
	}
}

// openGates is Unprotect by whoever runs the connection anyway.
func (c *Conn) openGates() {
	c.flags.Protected.Store(false)
	if c.isPassed() {
		return
	}
	c.client.Open()
	if c.begun.Load() {
		c.carrier.OpenGates()
	}
}

// Permit is called by the journal: ACKs to the sender of s may cover off.
func (c *Conn) Permit(s replication.Stream, off uint64) {
	c.carrier.Permit(s, off)
	if off >= c.carrier.Delivered(s) || c.flags.Paused.Swap(false) {
		c.soon()
	}
}

// Need is called by the journal: it wants the response bytes [from, to).
func (c *Conn) Need(s replication.Stream, from, to uint64) {
	c.carrier.Need(s, from, to)
	c.r.sched.add(c, false)
}

// Unlogged is called by the journal: it has given up the log by itself.
func (c *Conn) Unlogged() {
	if k, ok := c.carrier.(outliving); ok {
		k.Unlogged()
	}
	c.r.sched.add(c, false)
}

// LegHeld is called by the journal: the standby holds the server's leg that it was told of, or
// will not continue the connection.
func (c *Conn) LegHeld() {
	if k, ok := c.carrier.(outliving); ok {
		k.LegHeld()
	}
	c.r.sched.add(c, false)
}

// step does whatever there is to do. again asks for another turn.
func (c *Conn) step() (again bool) {
	if c.isPassed() {
		c.stepPassed()
		return false
	}
	if k := c.killed.Load(); k != killNot && c.phase != phaseDone {
		if k == killSilent {
			c.client.Drop()
			if c.carrier != nil {
				c.carrier.Drop()
			}
		}
		c.abort()
		return false
	}
	c.stepAt.Store(int64(c.r.now()))
	if c.alive.toPark.Load() != parkNot {
		defer c.alive.toPark.Store(parkNot)
	}
	if c.wanted.Swap(false) {
		c.adopt()
	}
	switch c.phase {
	case phaseDialing:
		c.stepDialing()
	case phaseOpening:
		if err := c.carrier.Refused(); err != nil {
			c.giveUp(err)
			return false
		}
		if c.failed() {
			return false
		}
		if c.flags.Opened.Load() {
			c.phase = phaseAccepting
			c.client.Accept()
			if !c.unproven {
				c.stepAccepting() // the client has shown already that it is there
			}
		}
	case phaseAccepting:
		c.stepAccepting()
	case phaseOpen:
		c.checkAlive()
		c.carrier.Attach() // a takeover: endpoints come as they are needed
		if c.phase == phaseDone {
			return false
		}
		c.prove()
		if c.alive.parked.Load() && !c.carrier.Parked() {
			c.noteParked(false)
		}
		if c.rebuild.Load() != nil && c.carrier.Whole() {
			c.rebuilt()
		}
		again = c.carrier.Step()
		c.park(again)
		return again
	case phaseLingering:
		c.carrier.Step()
		return false
	}
	return c.phase == phaseOpen && c.client.Established()
}

func (c *Conn) stepDialing() {
	if c.client.Err() != nil {
		c.abort()
		return
	}
	if c.carrier != nil {
		answered, err := c.carrier.Answered()
		if answered {
			c.svc.Pool.Accepted(int(c.serverIdx))
			c.open()
			return
		}
		if err == nil {
			return
		}
		c.svc.Pool.Refused(int(c.serverIdx))
		c.carrier.Drop()
		c.carrier = nil
		c.tried = &triedServer{int(c.serverIdx), c.tried}
		c.dial(err)
		return
	}
	c.serverIdx = -1
	c.dial(stack.ErrUnreachable)
}

// giveUp tells the client what it would learn without the gateway.
func (c *Conn) giveUp(err error) {
	if c.unproven && (errors.Is(err, stack.ErrRefused) || errors.Is(err, stack.ErrReset)) {
		c.client.Refuse()
	}
	// Unreachable or silent: the client's SYN goes unanswered; it is reset if it has had
	// its answer already.
	c.abort()
}

// dial asks the next server; err is what the client is told if there is none.
func (c *Conn) dial(err error) {
	for {
		i, ok := c.nextServer()
		if !ok {
			c.giveUp(err)
			return
		}
		c.serverIdx = int32(i)
		next := c.newCarrier(c.svc.Kept)
		if err = next.Dial(i); err == nil {
			c.carrier = next
			return
		}
		c.tried = &triedServer{i, c.tried}
	}
}

// nextServer is the next one that has not been tried.
func (c *Conn) nextServer() (i int, ok bool) {
	_, client := c.ends()
	tried := func(i int) bool {
		return c.tried.has(i) || c.isPassed() && !c.svc.sameFamily(i, client)
	}
	if i, ok = c.svc.Pool.Next(pool.Want{Client: client, After: int(c.serverIdx), Not: tried, Any: true, Take: true}); ok {
		c.left()
		c.counted = 1 + int32(i)
	}
	return i, ok
}

// servedBy has the pool count it at the server with that address: it comes from a takeover, or from another server. (That
// one is not in this appliance's configuration, perhaps.)
func (c *Conn) servedBy(server netip.AddrPort) {
	i, ok := c.svc.Pool.Find(server)
	if ok && c.counted == 1+int32(i) {
		return
	}
	c.left()
	if ok {
		c.svc.Pool.Take(i)
		c.counted = 1 + int32(i)
	}
}

// left: it has no server any more.
func (c *Conn) left() {
	if c.counted > 0 {
		c.svc.Pool.Left(int(c.counted) - 1)
		c.counted = 0
	}
}

// ends are the client and the address that it talks to.
func (c *Conn) ends() (vip, client netip.AddrPort) {
	if c.isPassed() {
		a := c.passed.Addrs()
		return a.VIP, a.Client
	}
	p := c.client.Params()
	return p.Local, p.Remote
}

// open hands the record to the journal.
func (c *Conn) open() {
	c.phase = phaseOpening
	server, logged := c.carrier.Begin()
	c.begun.Store(true)
	c.r.journal.Open(c, replication.Record{
		ID: c.ID, Service: c.svc.Name, Logged: logged,
		Client: carry.LegRecord(c.client.Params()), Server: server,
	})
	c.step()
}

func (c *Conn) stepAccepting() {
	if c.failed() {
		return
	}
	c.prove()
	c.carrier.Attach()
	if c.phase != phaseDone && c.client.Established() && c.carrier.Opens() {
		c.phase = phaseOpen
		c.passAsks()
	}
}

// prove lets the servers complete their handshakes once the client has completed its
// own: no server hears of a client that is not there.
func (c *Conn) prove() {
	if !c.unproven || !c.client.Confirmed() {
		return
	}
	c.unproven = false
	c.carrier.Complete()
}

// failed ends a connection in its handshake if a leg has ended that it cannot do
// without.
func (c *Conn) failed() bool {
	if !c.carrier.Gone() {
		return false
	}
	c.abort()
	return true
}

// recorded: the journal has been told of it.
func (c *Conn) recorded() bool { return c.phase >= phaseOpening && c.phase < phaseLingering }

// abort resets whoever is still there. A reset or a silent death of one side
// reaches the other as a reset.
func (c *Conn) abort() {
	if c.phase == phaseDone {
		return
	}
	recorded := c.recorded()
	c.phase = phaseDone
	if c.client.Err() == nil {
		c.client.Abort()
	} else {
		c.client.Drop()
	}
	if c.carrier != nil {
		c.carrier.Abort()
	}
	if recorded {
		c.r.journal.Close(c.ID, replication.Aborted)
	}
	c.r.ended(c, true)
}
