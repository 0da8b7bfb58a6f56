package script

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	"lockstep/appliance/relay"
	"lockstep/replication"
	"lockstep/replication/shell"
	"lockstep/replication/wire"
)

// flowKey names one leg as the appliance sees it.
type flowKey struct{ local, remote netip.AddrPort }

// legInfo is what the monitor needs of a leg that has a record.
type legInfo struct {
	id       replication.ConnID
	sender   replication.Stream // of the stream that the leg's peer sends
	iss, irs uint32
	start    uint64 // of that stream, where the leg begins
	// later: another server's leg of a connection that outlives them. Until it is seen no
	// byte of the response beyond released may go to the client.
	later    bool
	released uint64
	// What the standby held at last, once it had the record.
	held  uint64
	there bool // it has the connection's record
	seen  bool // in which this is the leg
	// free: nobody keeps the connection, its ACKs are not held.
	free bool
	// told is what was acknowledged before the connection was adopted, if it was.
	told    uint64
	adopted bool
	logged  bool
	spliced bool // its ACKs are its receiver's own
}

// past is what the monitor has seen of each connection.
type past struct {
	serving  map[replication.ConnID]*legInfo              // the newest server leg that was told
	stored   map[replication.ConnID]replication.LegRecord // the server leg of the standby's record
	released map[replication.ConnID]uint64                // of the response, as was told
	shipped  map[replication.ConnID][]shipped             // all bytes that ever went to the standby
}

func newPast() past {
	return past{make(map[replication.ConnID]*legInfo), make(map[replication.ConnID]replication.LegRecord),
		make(map[replication.ConnID]uint64), make(map[replication.ConnID][]shipped)}
}

// shipped is one piece of a stream on its way to the standby.
type shipped struct {
	stream replication.Stream
	off    uint64
	b      []byte
}

// Journal is a relay.Journal over two real cores, an active and its standby, each in the
// shell that they have in the product, with a sync link that is a pair of queues. After a
// takeover there is no standby.
//
// Lock order: link > the active's shell's apply > mu > the shells' other locks > queues.
// Nothing of the relay is called with mu held.
type Journal struct {
	violate func(format string, args ...any)
	relay   *relay.Relay // set before the first call
	active  *shell.Shell

	link sync.Mutex // what moves over the link moves in order

	mu        sync.Mutex
	standby   *shell.Shell      // nil: there is none
	next      *replication.Core // the standby's core: what a takeover goes on with
	hold      bool              // frames wait for Deliver and Confirm
	cut       bool              // the link is gone
	legs      map[flowKey]*legInfo
	ended     map[replication.ConnID]replication.CloseKind // or no longer protected
	keepBytes bool
	past      past

	toStandby, toActive queue

	clock atomic.Int64  // replication.Nanos
	calls atomic.Uint64 // activity, for quiescence
	kick  chan struct{}
	done  chan struct{}
	wg    sync.WaitGroup
}

var _ relay.Journal = (*Journal)(nil)

// newJournal starts a session between active and standby; a nil standby makes
// the active solo.
func newJournal(active, standby *replication.Core, violate func(string, ...any), keepBytes bool) *Journal {
	j := &Journal{
		violate: violate, keepBytes: keepBytes,
		legs: make(map[flowKey]*legInfo), ended: make(map[replication.ConnID]replication.CloseKind),
		past: newPast(),
		kick: make(chan struct{}, 1), done: make(chan struct{}),
	}
	j.active = shell.New(active, effects{j}, host{j})
	j.toStandby.arrives, j.toActive.arrives = j.nudge, j.nudge
	if standby != nil {
		if err := j.begin(standby); err != nil {
			violate("join: %v", err)
		}
	}
	return j
}

// begin begins a session with a standby that has its role.
func (j *Journal) begin(standby *replication.Core) error {
	s := shell.New(standby, none{}, none{})
	j.mu.Lock()
	j.standby, j.next = s, standby
	clear(j.past.stored)
	j.mu.Unlock()
	return errors.Join(j.active.Begin(j.now(), wire.Version, &j.toStandby), s.Begin(j.now(), wire.Version, &j.toActive))
}

// Continued implements relay.Journal.
func (j *Journal) Continued(id replication.ConnID) { _ = j.active.Continued(j.now(), id) }

// MaySplice implements relay.Journal.
func (j *Journal) MaySplice() (may bool) {
	j.active.Look(func(c *replication.Core) { may = c.MaySplice() })
	return may
}

// MayTerminate implements relay.Journal.
func (j *Journal) MayTerminate() (may bool) {
	j.active.Look(func(c *replication.Core) { may = c.MayTerminate() })
	return may
}

// Terminate implements relay.Journal.
func (j *Journal) Terminate(r replication.Record, pos [2]replication.StreamPos) error {
	return j.active.Terminate(j.now(), &r, pos)
}

func (j *Journal) now() replication.Nanos { return replication.Nanos(j.clock.Load()) }

func (j *Journal) start() {
	j.wg.Add(1)
	go func() {
		defer j.wg.Done()
		for {
			select {
			case <-j.done:
				return
			case <-j.kick:
				j.pump()
			}
		}
	}()
	j.nudge()
}

// cutLink loses all that is on its way, and will be.
func (j *Journal) cutLink() {
	j.mu.Lock()
	j.cut = true
	j.mu.Unlock()
}

func (j *Journal) isCut() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.cut
}

// stop ends the pump.
func (j *Journal) stop() {
	close(j.done)
	j.wg.Wait()
}

func (j *Journal) nudge() {
	j.calls.Add(1)
	select {
	case j.kick <- struct{}{}:
	default:
	}
}

// moves reports whether there is a standby and frames may move to it and back.
func (j *Journal) moves(held bool) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return !j.cut && j.standby != nil && (held || !j.hold)
}

// pump moves what may move over the link and carries out what follows.
func (j *Journal) pump() {
	j.link.Lock()
	defer j.link.Unlock()
	j.active.Run(j.now())
	for j.moves(false) && j.toStandby.len()+j.toActive.len() > 0 {
		j.deliver()
		j.confirm()
	}
}

// deliver gives the standby what is on its way to it. link is held.
func (j *Journal) deliver() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, f := range j.frames(&j.toStandby) {
		j.record(f)
		if err := j.standby.Step(j.now(), f); err != nil {
			j.violate("standby: %v", err)
		}
	}
	j.standby.Look(func(c *replication.Core) {
		for _, leg := range j.legs {
			j.look(c, leg)
		}
		for _, leg := range j.past.serving { // its address may have been dialled again
			j.look(c, leg)
		}
		j.check("standby", c)
	})
}

// look notes what the standby holds of a leg. mu is held.
func (j *Journal) look(c *replication.Core, leg *legInfo) {
	_, held, ok := c.Stored(leg.id, leg.sender)
	if !ok {
		return
	}
	leg.held, leg.there = held, true
	at := j.past.stored[leg.id]
	leg.seen = leg.seen || leg.sender == replication.Request || at.ISS == leg.iss && at.IRS == leg.irs
	if leg.told > held && c.Stats().CanTakeOver {
		j.violate("invariant 5: in sync with %d of the %v stream, %d were acknowledged before it was adopted", held, leg.sender, leg.told)
	}
}

// confirm gives the active the standby's answers. link is held.
func (j *Journal) confirm() {
	for _, f := range j.frames(&j.toActive) {
		if err := j.active.Step(j.now(), f); err != nil {
			j.violate("active: %v", err)
		}
	}
	j.active.Look(func(c *replication.Core) { j.check("active", c) })
}

func (j *Journal) check(who string, c *replication.Core) {
	if !j.keepBytes {
		return
	}
	if err := c.Check(); err != nil {
		j.violate("%s: %v", who, err)
	}
}

// frames takes what q holds, one by one.
func (j *Journal) frames(q *queue) (all [][]byte) {
	b := q.take()
	for len(b) > 0 {
		n, err := wire.FrameLen(b)
		if err != nil || n > len(b) {
			j.violate("sent %d bytes, frame of %d: %v", len(b), n, err)
			return all
		}
		all, b = append(all, b[:n]), b[n:]
	}
	return all
}

// record keeps all bytes that the standby is given.
func (j *Journal) record(frame []byte) {
	h, payload, err := wire.Decode(frame)
	if err != nil || h.Type != wire.TypeBatch || !j.keepBytes {
		return
	}
	es := wire.NewEntries(payload)
	var e wire.Entry
	for {
		more, err := es.Next(&e)
		if err != nil {
			j.violate("own batch: %v", err)
		}
		if err != nil || !more {
			return
		}
		switch e.Kind {
		case wire.EntryOpen, wire.EntryAdopt, wire.EntryLeg:
			j.past.stored[e.ID] = e.Record.Server
		}
		if e.Kind != wire.EntryData {
			continue
		}
		j.past.shipped[e.ID] = append(j.past.shipped[e.ID], shipped{e.Stream, e.Off, append([]byte(nil), e.Data...)})
	}
}

// join begins a session with a fresh standby.
func (j *Journal) join(standby *replication.Core) error {
	j.link.Lock()
	defer j.link.Unlock()
	j.mu.Lock()
	refused := j.cut || j.standby != nil
	j.mu.Unlock()
	if refused {
		return errors.New("join: no place for a standby")
	}
	var epoch uint64
	j.active.Look(func(c *replication.Core) { epoch = c.Epoch() })
	if err := errors.Join(standby.SetRole(replication.RoleStandby, epoch), j.begin(standby)); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	j.nudge()
	return nil
}

func legKeys(r *replication.Record) [2]flowKey {
	return [2]flowKey{{r.Client.Local, r.Client.Remote}, {r.Server.Local, r.Server.Remote}}
}

// legsOf notes both legs of a connection for the monitor. mu is held.
func (j *Journal) legsOf(r *replication.Record, free bool, pos *[2]replication.StreamPos) {
	if !j.keepBytes {
		return
	}
	keys := legKeys(r)
	for s, l := range [2]*replication.LegRecord{&r.Client, &r.Server} {
		leg := &legInfo{id: r.ID, sender: replication.Stream(s), iss: l.ISS, irs: l.IRS, free: free, logged: r.Logged, spliced: r.Spliced}
		if s == 1 {
			leg.start = r.Start[replication.Response]
		}
		if pos != nil {
			leg.adopted, leg.told = true, pos[s].Acked
		}
		j.legs[keys[s]] = leg
		if s == 1 {
			j.past.serving[r.ID] = leg
		}
	}
}

// serves reports whether the standby holds the record of a connection of that client that
// outlives its servers, or nobody keeps it. mu is held.
func (j *Journal) serves(client netip.AddrPort) bool {
	for k, leg := range j.legs {
		if leg.logged && (leg.seen || leg.free || leg.adopted) && leg.sender == replication.Request && k.remote == client {
			return true
		}
	}
	return false
}

// laterLeg notes another server's leg of a connection, whose record is on its way. What
// holds of the stream holds of any leg. mu is held.
func (j *Journal) laterLeg(id replication.ConnID, l *replication.LegRecord, start uint64) {
	if !j.keepBytes {
		return
	}
	leg := &legInfo{id: id, sender: replication.Response, iss: l.ISS, irs: l.IRS, start: start, logged: true, later: true, released: j.past.released[id]}
	if x := j.past.serving[id]; x != nil {
		leg.held, leg.there, leg.free, leg.told, leg.adopted = x.held, x.there, x.free, x.told, x.adopted
	}
	j.legs[flowKey{l.Local, l.Remote}], j.past.serving[id] = leg, leg
}

// Adopt implements relay.Journal. Its legs are noted before the standby can hold it.
func (j *Journal) Adopt(_ *relay.Conn, r replication.Record, pos [2]replication.StreamPos, l *replication.Log) error {
	j.mu.Lock()
	keys := legKeys(&r)
	before := [2]*legInfo{j.legs[keys[0]], j.legs[keys[1]]}
	kind, ended := j.ended[r.ID]
	serving := j.past.serving[r.ID]
	j.legsOf(&r, false, &pos)
	if l != nil && len(l.Segments) > 0 {
		j.past.released[r.ID] = l.Segments[len(l.Segments)-1].End
	}
	delete(j.ended, r.ID)
	j.mu.Unlock()
	err := j.active.Adopt(j.now(), &r, pos, l)
	if err != nil {
		j.mu.Lock()
		for i, leg := range before {
			if leg != nil {
				j.legs[keys[i]] = leg
			}
		}
		if delete(j.past.serving, r.ID); serving != nil {
			j.past.serving[r.ID] = serving
		}
		if ended {
			j.ended[r.ID] = kind
		}
		j.mu.Unlock()
	}
	if errors.Is(err, replication.ErrLimit) || errors.Is(err, replication.ErrNoSession) {
		j.calls.Add(1)
		return err
	}
	j.note("adopt", err)
	return err
}

// Hold stops (true) or restarts the sync link.
func (j *Journal) Hold(on bool) {
	j.mu.Lock()
	j.hold = on
	j.mu.Unlock()
	j.nudge()
}

// Deliver lets what waits reach the standby; its answer waits.
func (j *Journal) Deliver() { j.move(j.deliver) }

// deliverAndConfirm is Deliver, and the answer comes back.
func (j *Journal) deliverAndConfirm() { j.move(func() { j.deliver(); j.confirm() }) }

func (j *Journal) move(f func()) {
	j.link.Lock()
	defer j.link.Unlock()
	if j.moves(true) {
		j.active.Run(j.now())
		f()
	}
}

// Lose is the arbiter's decision that the standby is out: the active goes on
// alone.
func (j *Journal) Lose() {
	j.link.Lock()
	defer j.link.Unlock()
	j.active.Detach()
	j.mu.Lock()
	j.standby, j.next = nil, nil
	j.mu.Unlock()
	j.toStandby.take()
	j.toActive.take()
	j.active.With(j.now(), (*replication.Core).PeerLost)
	j.nudge()
}

// Advance moves both cores' clocks.
func (j *Journal) Advance(d replication.Nanos) {
	j.link.Lock()
	defer j.link.Unlock()
	j.mu.Lock()
	cut, standby := j.cut, j.standby
	j.mu.Unlock()
	if !cut {
		j.clock.Add(int64(d))
		j.active.Tick(j.now(), 0)
		if standby != nil {
			standby.Tick(j.now(), 0)
		}
	}
	j.nudge()
}

// flushable reports whether the active has something to send that it has not sent.
func (j *Journal) flushable() (yes bool) {
	j.active.Look(func(c *replication.Core) { yes = c.Flushable() || c.Pending() })
	return yes
}

// waits reports whether Deliver, or Confirm, would have something to do.
func (j *Journal) waits(confirm bool) bool {
	return j.toStandby.len() > 0 || j.flushable() || confirm && j.toActive.len() > 0
}

// idle reports whether nothing is on its way.
func (j *Journal) idle() bool {
	j.mu.Lock()
	stopped := j.hold || j.cut
	j.mu.Unlock()
	return stopped || !j.flushable() && j.toStandby.len()+j.toActive.len() == 0
}

// Standby returns the standby's counters; ok is false when there is none.
func (j *Journal) Standby() (st replication.Stats, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.standby == nil {
		return st, false
	}
	j.standby.Look(func(c *replication.Core) { st = c.Stats() })
	return st, true
}

// Active returns the active core's counters.
func (j *Journal) Active() (st replication.Stats) {
	j.active.Look(func(c *replication.Core) { st = c.Stats() })
	return st
}
