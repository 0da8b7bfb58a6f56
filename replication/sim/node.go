package sim

import (
	"bytes"
	"errors"
	"net/netip"

	"lockstep/replication"
	shellpkg "lockstep/replication/shell"
	"lockstep/replication/wire"
)

// node is an appliance: a core, and the product's shell around it.
type node struct {
	*machine
	muted   bool // oracle worlds: deposed, nothing leaves any more
	core    *replication.Core
	session *session
	skew    uint32 // of its millisecond clock
	*table
	next   uint64
	driver driver   // nil in an oracle world
	shell  *shell   // the same
	linked *session // the newest, as replication/link keeps it; not in an oracle world

	sh      *shellpkg.Shell // around core
	running bool            // a call of its Run is scheduled
	tickAt  nanos

	lastFrame []byte // from the peer; must be refused once its epoch is over
}

// table is all connections of one time as the active. A closure that belongs to them
// ends with it.
type table struct {
	conns   map[replication.ConnID]*gwConn // looked up only
	byFlow  map[*flow]*gwConn              // looked up only
	ordered []*gwConn                      // the same, in order of creation
	core    *replication.Core
	resting map[*flow]*gwConn // continued, and not in the others yet; looked up only
	waiting []waiting         // servers that have asked
	born    uint64            // lives
	closed  bool              // the core has forgotten them
	astray  bool              // no witness: two have gone on with them, after more faults than are survived
}

// gwConn is a connection at the relay.
type gwConn struct {
	id          replication.ConnID
	f           *flow
	inc         uint32
	rec         replication.Record
	dialled     bool // the server has answered; the record is with the core
	opened      bool // the SYN-ACK may leave
	unprotected bool // the gate is open
	loose       bool // something has left while it was
	dropped     bool // its protection was being taken back when the table was closed
	adopted     bool // it ran before the standby of this session joined
	continued   int  // takeovers that it has lived through
	finished    bool // Close(Finished) was called, or a tombstone
	gone        bool
	log         *gwLog // nil: not logged
	legWaits    bool   // the standby does not hold the server leg yet
	hist        *history
	s           [2]gwStream
	spliced     bool // it is passed on, and s is not used
	passed      splicedConn
}

// gwStream is one direction at the relay.
type gwStream struct {
	una    uint64 // acknowledged by the receiver, at most rcv
	acked  uint64 // the highest ACK seen; a takeover may find it beyond rcv
	rcv    uint64 // next expected from the sender, FIN counted
	fin    bool   // the FIN is below rcv
	buf    []byte // from una to rcv, without the FIN
	told   uint64 // how far the sender may have been told that it is safe
	permit uint64 // the core's newest in this session
	gate   uint64 // at least permit: what was told before the connection was adopted
}

// boot starts the process with nothing in memory.
func (n *node) boot() {
	n.start()
	n.muted, n.session = false, nil
	n.lastFrame = nil
	n.skew = n.w.rng.Uint32()
	lim := n.w.plan.limits
	if n.name != "a" {
		lim = n.w.plan.standbyLimits
	}
	n.core = replication.New(lim)
	n.sh = shellpkg.New(n.core, effects{n}, host{n})
	n.forget()
	n.tickAt = replication.Never
	n.running = false
}

func (n *node) forget() {
	n.table = &table{conns: map[replication.ConnID]*gwConn{}, byFlow: map[*flow]*gwConn{}, resting: map[*flow]*gwConn{}, core: n.core}
}

func (n *node) clock() uint32 { return n.skew + uint32(n.now()/millis) }

// silent: nothing may leave now.
func (n *node) silent() bool {
	if n.driver != nil {
		return !n.alive || n.driver.mayNotSpeak()
	}
	return !n.alive || n.muted
}

func (n *node) becomeActive(epoch uint64) {
	if err := n.core.SetRole(replication.RoleActive, epoch); err != nil {
		n.w.failf("%s: %v", n.name, err)
	}
	n.w.vip = n
	n.next = 0
}

// crash: everything in memory is gone, and the session breaks. It comes back as
// nobody and joins whoever is active then.
func (n *node) crash() {
	w := n.w
	w.logf("crash of %s, %v", n.name, n.core.Role())
	n.stop()
	if w.vip == n {
		w.seen.CrashActive++
	}
	if n.session != nil {
		n.session.cut()
	}
	w.after(w.between(30*millis, 300*millis), func() {
		if o := w.other(n); o.alive && o.core.Role() != replication.RoleActive {
			o.takeOver() // nobody else will serve
		}
		n.boot()
		w.logf("%s is back", n.name)
	})
}

// step takes a frame.
func (n *node) step(frame []byte) error {
	n.lastFrame = append(n.lastFrame[:0], frame...)
	return n.sh.Step(n.now(), frame)
}

// sessionClosed: the shell has noticed. It must not act before the arbiter has
// decided whether the active goes on alone or the standby takes its place.
func (n *node) sessionClosed(s *session) {
	w := n.w
	if !n.alive || n.session != s {
		return
	}
	n.session = nil
	if st := n.core.Stats(); st.PeerJoined && st.SnapshotTotal > 0 && !st.CanTakeOver {
		w.seen.SnapshotCut++
	}
	w.logf("%s notices the end of the session", n.name)
	switch n.core.Role() {
	case replication.RoleActive:
		if w.arbiter.Alone(n) {
			w.seen.Released++
			n.sh.With(n.now(), (*replication.Core).PeerLost)
			n.pump()
			return
		}
		// Deposed: it starts again from nothing, as a standby to be.
		n.boot()
		w.connectSoon()
	case replication.RoleStandby:
		n.core.PeerLost()
		n.takeOver()
	}
}

// takeOver asks for the active's place and continues what it may.
func (n *node) takeOver() {
	w := n.w
	old := w.other(n)
	n.core.PeerLost()
	n.session = nil
	epoch, whole, ok := w.arbiter.Take(n)
	if !ok {
		w.logf("%s may not take over", n.name)
		return
	}
	if old.alive {
		w.seen.Deposed++
	}
	clock, known := n.core.PeerClock(n.clock())
	rtt := n.core.RTT()
	inSync := n.core.Stats().CanTakeOver
	if !whole {
		if !inSync && n.core.Stats().Connections > 0 {
			w.seen.RefusedInSnapshot++
		}
		if !inSync {
			if _, err := n.core.Takeover(epoch); err == nil {
				w.failf("%s takes over although it is not in sync (invariant 5)", n.name)
			}
			w.seen.NotInSync++
		}
		n.becomeActive(epoch)
		w.seen.StartedEmpty++
		n.forget()
		w.loseAll()
		n.pump()
		return
	}
	if !inSync {
		w.failf("%s takes over without being in sync", n.name)
	}
	if err := n.continueAll(epoch, old.table); err != nil {
		w.failf("%s is in sync for the arbiter, but not for itself: %v", n.name, err)
	}
	if !known && w.plan.version >= wire.ClockVersion {
		w.failf("%s takes over and does not know the active's clock (invariant 7)", n.name)
	}
	if known && rtt > 0 {
		// Invariant 7: with the margin of PeerClock's comment no timestamp goes back.
		behind := int32(old.clock() - clock)
		if behind < -1 || nanos(behind)*millis > rtt+3*millis {
			w.failf("the active's clock is estimated %d ms behind, round trip %d us", behind, rtt/micros)
		}
		w.seen.ClockKnown++
	}
}

// continueAll takes over what old has served. After an error nothing has changed.
func (n *node) continueAll(epoch uint64, old *table) error {
	w := n.w
	cont, rest, err := n.core.TakeoverFirst(epoch)
	if err != nil {
		return err
	}
	w.logf("%s takes over in epoch %d: %d", n.name, epoch, len(cont))
	if len(n.lastFrame) > 0 && n.core.Step(n.now(), n.lastFrame) == nil {
		w.failf("%s accepts a frame of the epoch that it has ended (invariant 4)", n.name)
	}
	n.next = 0
	n.forget()
	if w.takeover++; w.takeover > 1 {
		w.seen.SecondTakeover++
	}
	if n.driver != nil {
		n.driver.serveEpoch(epoch)
	} else {
		w.vip = n
	}
	for i := range cont {
		n.add(n.continueConn(old, &cont[i]))
	}
	for i := range rest.Len() {
		k := rest.Take(i)
		n.addLater(n.continueConn(old, &k))
	}
	w.lose(old, n)
	w.observeLives(old, n)
	n.pump()
	for _, g := range n.ordered {
		n.probe(g)
	}
	return nil
}

// continueConn rebuilds one connection.
func (n *node) continueConn(old *table, k *replication.Continue) *gwConn {
	w := n.w
	f := w.flows[k.Record.Client.Remote.Port()]
	g := &gwConn{
		id: k.Record.ID, f: f, inc: k.Record.Server.ISS, rec: k.Record,
		dialled: true, opened: true, unprotected: true, finished: k.Finished,
	}
	g.spliced = k.Record.Spliced
	for i := range g.s {
		c := &k.Streams[i]
		g.s[i] = gwStream{
			una: c.Delivered, acked: c.Delivered, rcv: c.Held, fin: c.Fin,
			buf: bytes.Join(c.Bytes, nil), told: c.Held,
		}
		fin := uint64(0)
		if c.Fin && !c.FinDelivered {
			fin = 1
		}
		if c.Held-c.Delivered != uint64(len(g.s[i].buf))+fin {
			w.failf("flow %d %v: D=%d C=%d with %d bytes", f.n, replication.Stream(i), c.Delivered, c.Held, len(g.s[i].buf))
		}
	}
	w.observeContinue(old, g, k)
	n.continueLog(old.conns[g.id], g, k)
	if g.spliced {
		w.observeSpliced(g, k)
		n.tend(g)
	}
	return g
}

func (n *node) add(g *gwConn) {
	n.conns[g.id] = g
	n.byFlow[g.f] = g
	n.ordered = append(n.ordered, g)
}

// probe tells both peers where we are, and sends again what they may miss.
func (n *node) probe(g *gwConn) {
	if g.spliced {
		return // its ends send again what they miss
	}
	for s := range g.s {
		n.ack(g, replication.Stream(s))
		n.forward(g, replication.Stream(s), g.s[s].una)
	}
	n.retransmit(g)
	n.finish(g) // both ends may have been told, and only the Close not
}

// adopt closes the gates of a running connection and gives it to the core.
func (n *node) adopt(g *gwConn) {
	if g.gone || g.finished || !g.unprotected {
		return // ended, or asked for by two sessions and answered already
	}
	var pos [2]replication.StreamPos
	for i := range pos {
		if g.spliced {
			break // there is nothing to say of its bytes
		}
		st := &g.s[i]
		pos[i] = replication.StreamPos{Delivered: st.una, Acked: st.told, Received: st.rcv, Fin: st.fin}
		keep := uint64(len(st.buf))
		if replication.Stream(i) == replication.Response {
			keep = min(keep, max(st.told, st.una)-st.una)
		}
		pos[i].Bytes = [][]byte{st.buf[:keep/2], st.buf[keep/2 : keep]}
		st.permit, st.gate = 0, st.told
	}
	log, was := n.adoptLog(g), g.adopted
	g.unprotected, g.adopted = false, true // what has waited for Run since before may leave in Adopt
	switch err := n.sh.Adopt(n.now(), &g.rec, pos, log); {
	case err == nil:
		g.loose = false
		g.hist.legHeld = len(g.hist.legs) - 1
		n.w.seen.Adopted++
		if g.spliced {
			n.w.seen.SplicedAdopted++
		}
		n.w.logf("%s: flow %d adopted", n.name, g.f.n)
		return
	case errors.Is(err, replication.ErrLimit), oldPeer(err):
		n.w.seen.AdoptRefused++
		if g.spliced && oldPeer(err) {
			n.w.seen.SplicedOldPeer++
		}
	case errors.Is(err, replication.ErrLater), errors.Is(err, replication.ErrNoSession):
	case n.driver != nil && errors.Is(err, replication.ErrUnexpected): // refused when a session before asked
	default:
		n.call("adopt", err)
	}
	g.unprotected, g.adopted = true, was
	n.ack(g, replication.Request)
	n.ack(g, replication.Response)
}

// handIn gives the core the response bytes that it asks for, some time later.
func (n *node) handIn(g *gwConn, need replication.Range) {
	n.w.seen.Need++
	n.serve(n.w.between(0, millis), func() {
		if g.gone || g.finished {
			return
		}
		st := &g.s[replication.Response]
		from := max(need.From, st.una)
		if from >= need.To {
			return
		}
		lo := min(from-st.una, uint64(len(st.buf)))
		hi := min(need.To-st.una, uint64(len(st.buf)))
		fin := st.fin && need.To == st.rcv
		n.call("data", n.sh.Data(n.now(), g.id, replication.Response, from, [][]byte{st.buf[lo:hi]}, fin))
	})
}

func (n *node) call(what string, err error) {
	if err != nil {
		n.w.failf("%s: %s: %v", n.name, what, err)
	}
}

func (n *node) record(g *gwConn) *replication.Record {
	addr := func(b byte) netip.Addr { return netip.AddrFrom4([4]byte{10, b, 0, 1}) }
	g.rec = replication.Record{
		ID: g.id, Service: "sim",
		Client: replication.LegRecord{
			Local: netip.AddrPortFrom(addr(1), 80), Remote: netip.AddrPortFrom(addr(2), uint16(g.f.n)),
			ISS: n.w.rng.Uint32(), IRS: n.w.rng.Uint32(), MSS: 1460, OurMSS: 1460, PeerWS: 7, OurWS: 7, TS: true,
			TSOffset: n.w.rng.Uint32(),
		},
		Server: replication.LegRecord{
			Local: netip.AddrPortFrom(addr(2), uint16(g.f.n)), Remote: netip.AddrPortFrom(addr(3), 80),
			ISS: g.inc, PeerWS: -1, OurWS: -1, SACK: true,
		},
	}
	if g.spliced {
		g.rec.Spliced = true
		g.hist = &history{legs: []serverLeg{{g.rec.Server, g.rec.Start}}}
		return &g.rec
	}
	n.beginLog(g)
	return &g.rec
}
