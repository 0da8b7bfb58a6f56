package script

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	"lockstep/appliance/relay"
	"lockstep/replication"
	"lockstep/replication/wire"
)

// flowKey names one leg as the appliance sees it.
type flowKey struct{ local, remote netip.AddrPort }

// legInfo is what the monitor needs of a leg that has a record.
type legInfo struct {
	id       replication.ConnID
	sender   replication.Stream // of the stream that the leg's peer sends
	iss, irs uint32
	// What the standby held at last, once it had the record.
	held uint64
	seen bool
	// free: nobody keeps the connection, its ACKs are not held.
	free bool
	// told is what was acknowledged before the connection was adopted, if it was.
	told    uint64
	adopted bool
}

// shipped is one piece of a stream on its way to the standby.
type shipped struct {
	stream replication.Stream
	off    uint64
	b      []byte
}

// Journal is a relay.Journal over two real cores, an active and its standby, with
// a sync link that is a pair of queues. After a takeover there is no standby.
//
// Lock order: applyMu > mu. Nothing of the relay is called with mu held.
type Journal struct {
	violate func(format string, args ...any)
	relay   *relay.Relay // set before the first call

	applyMu sync.Mutex // one Ready at a time, in order

	mu        sync.Mutex
	core      *replication.Core // the active's
	standby   *replication.Core // nil: there is none
	hold      bool              // frames wait for Deliver and Confirm
	cut       bool              // the link is gone
	clock     replication.Nanos
	toStandby [][]byte
	toActive  [][]byte
	legs      map[flowKey]*legInfo
	ended     map[replication.ConnID]replication.CloseKind // or no longer protected
	shipped   map[replication.ConnID][]shipped             // all bytes that ever went to the standby
	keepBytes bool

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
		violate: violate, core: active, standby: standby, keepBytes: keepBytes,
		legs: make(map[flowKey]*legInfo), ended: make(map[replication.ConnID]replication.CloseKind),
		shipped: make(map[replication.ConnID][]shipped),
		kick:    make(chan struct{}, 1), done: make(chan struct{}),
	}
	if standby != nil {
		for _, c := range []*replication.Core{active, standby} {
			if err := c.PeerJoined(0, wire.Version); err != nil {
				violate("join: %v", err)
			}
		}
	}
	return j
}

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

// pump moves what may move over the link and carries out what follows.
func (j *Journal) pump() {
	j.mu.Lock()
	j.gather()
	for !j.hold && !j.cut && len(j.toStandby)+len(j.toActive) > 0 {
		j.deliver()
		j.confirm()
		j.gather()
	}
	j.mu.Unlock()
	j.apply()
}

// gather takes what the cores want to send. mu is held.
func (j *Journal) gather() {
	j.toStandby = j.flush(j.core, j.toStandby)
	if j.standby != nil {
		j.toActive = j.flush(j.standby, j.toActive)
	}
}

// flush appends a core's frames, one by one.
func (j *Journal) flush(c *replication.Core, frames [][]byte) [][]byte {
	for c.Flushable() {
		b := c.Flush(nil)
		for len(b) > 0 {
			n, err := wire.FrameLen(b)
			if err != nil || n > len(b) {
				j.violate("flushed %d bytes, frame of %d: %v", len(b), n, err)
				return frames
			}
			frames, b = append(frames, b[:n]), b[n:]
		}
	}
	return frames
}

func (j *Journal) deliver() {
	for _, f := range j.toStandby {
		j.record(f)
		if err := j.standby.Step(j.clock, f); err != nil {
			j.violate("standby: %v", err)
		}
	}
	j.toStandby = nil
	for _, leg := range j.legs {
		if _, held, ok := j.standby.Stored(leg.id, leg.sender); ok {
			leg.held, leg.seen = held, true
			if leg.told > held && j.standby.Stats().CanTakeOver {
				j.violate("invariant 5: in sync with %d of the %v stream, %d were acknowledged before it was adopted", held, leg.sender, leg.told)
			}
		}
	}
	if j.standby != nil && j.keepBytes {
		if err := j.standby.Check(); err != nil {
			j.violate("standby: %v", err)
		}
	}
	j.gather()
}

func (j *Journal) confirm() {
	for _, f := range j.toActive {
		if err := j.core.Step(j.clock, f); err != nil {
			j.violate("active: %v", err)
		}
	}
	j.toActive = nil
	if j.keepBytes {
		if err := j.core.Check(); err != nil {
			j.violate("active: %v", err)
		}
	}
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
		if e.Kind != wire.EntryData {
			continue
		}
		j.shipped[e.ID] = append(j.shipped[e.ID], shipped{e.Stream, e.Off, append([]byte(nil), e.Data...)})
	}
}

// apply carries out Ready in its order.
func (j *Journal) apply() {
	j.applyMu.Lock()
	defer j.applyMu.Unlock()
	j.mu.Lock()
	rd := j.core.Ready()
	cut := j.cut
	j.mu.Unlock()
	if cut || rd.Empty() {
		return
	}
	j.calls.Add(1)
	if rd.Released {
		j.relay.Each((*relay.Conn).Unprotect)
	}
	for _, id := range rd.Unprotected {
		j.mu.Lock()
		if j.keepBytes {
			j.ended[id] = wire.Unprotected
		}
		j.mu.Unlock()
		if c := j.relay.Lookup(id); c != nil {
			c.Unprotect()
		}
	}
	for _, id := range rd.Unlogged {
		if c := j.relay.Lookup(id); c != nil {
			c.Unlogged()
		}
	}
	for _, id := range rd.Opened {
		if c := j.relay.Lookup(id); c != nil {
			c.Opened()
		}
	}
	for _, p := range rd.Permits {
		if c := j.relay.Lookup(p.ID); c != nil {
			c.Permit(p.Stream, p.Off)
		}
	}
	for _, n := range rd.Need {
		if c := j.relay.Lookup(n.ID); c != nil {
			c.Need(n.Stream, n.From, n.To)
		}
	}
	for _, id := range rd.Adopt {
		if c := j.relay.Lookup(id); c != nil {
			c.Adopt()
		}
	}
}

// Join begins a session with a fresh standby.
func (j *Journal) Join(standby *replication.Core) error {
	j.mu.Lock()
	defer j.nudge()
	defer j.mu.Unlock()
	if j.cut || j.standby != nil {
		return errors.New("join: no place for a standby")
	}
	err := standby.SetRole(replication.RoleStandby, j.core.Epoch())
	for _, c := range []*replication.Core{j.core, standby} {
		if err == nil {
			err = c.PeerJoined(j.clock, wire.Version)
		}
	}
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	j.standby = standby
	return nil
}

// legsOf notes both legs of a connection for the monitor. mu is held.
func (j *Journal) legsOf(r *replication.Record, free bool, pos *[2]replication.StreamPos) {
	if !j.keepBytes {
		return
	}
	for s, l := range [2]*replication.LegRecord{&r.Client, &r.Server} {
		leg := &legInfo{id: r.ID, sender: replication.Stream(s), iss: l.ISS, irs: l.IRS, free: free}
		if pos != nil {
			leg.adopted, leg.told = true, pos[s].Acked
		}
		j.legs[flowKey{l.Local, l.Remote}] = leg
	}
}

// Adopt implements relay.Journal.
func (j *Journal) Adopt(_ *relay.Conn, r replication.Record, pos [2]replication.StreamPos, l *replication.Log) error {
	j.mu.Lock()
	err := j.core.Adopt(j.clock, &r, pos, l)
	if err == nil {
		j.legsOf(&r, false, &pos)
		delete(j.ended, r.ID)
	}
	cut := j.cut
	j.mu.Unlock()
	if err != nil && !cut && !errors.Is(err, replication.ErrLimit) && !errors.Is(err, replication.ErrNoSession) {
		j.violate("adopt: %v", err)
	}
	j.nudge()
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
func (j *Journal) Deliver() {
	j.mu.Lock()
	if !j.cut && j.standby != nil {
		j.gather()
		j.deliver()
	}
	j.mu.Unlock()
}

// Confirm is Deliver, and the answer comes back.
func (j *Journal) Confirm() {
	j.mu.Lock()
	if !j.cut && j.standby != nil {
		j.gather()
		j.deliver()
		j.confirm()
		j.gather()
	}
	j.mu.Unlock()
	j.apply()
}

// Lose is the arbiter's decision that the standby is out: the active goes on
// alone.
func (j *Journal) Lose() {
	j.mu.Lock()
	j.core.PeerLost()
	j.standby, j.toStandby, j.toActive = nil, nil, nil
	j.mu.Unlock()
	j.nudge()
}

// Advance moves both cores' clocks.
func (j *Journal) Advance(d replication.Nanos) {
	j.mu.Lock()
	if !j.cut {
		j.clock += d
		j.core.Tick(j.clock)
		if j.standby != nil {
			j.standby.Tick(j.clock)
		}
	}
	j.mu.Unlock()
	j.nudge()
}

// waits reports whether Deliver, or Confirm, would have something to do.
func (j *Journal) waits(confirm bool) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.toStandby) > 0 || j.core.Flushable() || confirm && len(j.toActive) > 0
}

// idle reports whether nothing is on its way.
func (j *Journal) idle() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.hold || j.cut {
		return true
	}
	return !j.core.Flushable() && len(j.toStandby)+len(j.toActive) == 0
}

// Standby returns the standby's counters; ok is false when there is none.
func (j *Journal) Standby() (st replication.Stats, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.standby == nil {
		return st, false
	}
	return j.standby.Stats(), true
}

// Active returns the active core's counters.
func (j *Journal) Active() replication.Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.core.Stats()
}

// Open implements relay.Journal.
func (j *Journal) Open(c *relay.Conn, r replication.Record) {
	c.Protect()
	j.mu.Lock()
	err := j.core.Open(j.clock, &r)
	j.legsOf(&r, !j.core.Protected(r.ID), nil)
	j.mu.Unlock()
	if err != nil {
		j.violate("open: %v", err)
	}
	j.nudge()
}

// Data implements relay.Journal.
func (j *Journal) Data(id replication.ConnID, s replication.Stream, off uint64, bufs [][]byte, fin bool) {
	j.mu.Lock()
	var err error
	for i, b := range bufs {
		err = first(err, j.core.Data(j.clock, id, s, off, b, fin && i == len(bufs)-1))
		off += uint64(len(b))
	}
	if fin && len(bufs) == 0 {
		err = first(err, j.core.Data(j.clock, id, s, off, nil, true))
	}
	j.note("data", err)
}

// note releases mu and reports what the core refused.
func (j *Journal) note(what string, err error) {
	cut := j.cut
	j.mu.Unlock()
	if err != nil && !cut {
		j.violate("%s: %v", what, err)
	}
	j.nudge()
}

func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// Received implements relay.Journal.
func (j *Journal) Received(id replication.ConnID, s replication.Stream, off uint64, fin bool) {
	j.mu.Lock()
	j.note(fmt.Sprintf("received %d", off), j.core.Received(j.clock, id, s, off, fin))
}

// Delivered implements relay.Journal.
func (j *Journal) Delivered(id replication.ConnID, s replication.Stream, off uint64) {
	j.mu.Lock()
	err := j.core.Delivered(j.clock, id, s, off)
	if _, gone := j.ended[id]; gone || !j.keepBytes {
		err = nil // the packet path may be late
	}
	j.note(fmt.Sprintf("delivered %d", off), err)
}

// Close implements relay.Journal.
func (j *Journal) Close(id replication.ConnID, k replication.CloseKind) {
	j.mu.Lock()
	err := j.core.Close(j.clock, id, k)
	if j.keepBytes {
		j.ended[id] = k
	}
	j.note("close", err)
}

// Congested implements relay.Journal.
func (j *Journal) Congested() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.core.Congested()
}
