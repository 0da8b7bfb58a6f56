package appliance

import (
	"fmt"
	"sync"
	"time"

	"lockstep/appliance/relay"
	"lockstep/internal/clock"
	"lockstep/replication"
	"lockstep/replication/shell"
)

// journal is what the relay tells its connections to: the shell around the replication core
// (replication/shell), with this process's clock, goroutines and relay. The shell's lock
// order comes beneath it; the journal has no lock of its own.
type journal struct {
	shell  *shell.Shell
	clock  clock.Clock
	start  time.Time     // a reading of clock
	relay  *relay.Relay  // set before the first input
	millis func() uint32 // the engine's TSval clock

	kicked chan struct{} // cap 1: see shell.Host.Kick
	ticked chan struct{} // cap 1: wakeAt has moved
	// syncChanged (cap 1) tells that the standby came in sync, or fell out of it.
	syncChanged chan struct{}
	done        chan struct{}
	wg          sync.WaitGroup

	journalEvents
}

// journalEvents are told what the relay does not need to know. They are set before run,
// and called with nothing locked but where said; nil: nobody listens.
type journalEvents struct {
	// onHeard is told of every frame of the peer, before what follows from it is done.
	onHeard func()
	// onSynced is told before the frame leaves that lets the standby take over.
	onSynced func()
	// onPeerFitness is told when the peer has said whether it could serve.
	onPeerFitness func()
	// onPeerOrders is told when the peer has said which orders of the operator's it goes by.
	onPeerOrders func()
	// onDecided is told what wrapped servers may be told.
	onDecided func(replication.Held)
	// onSilent is told when the peer has not been heard of for too long.
	onSilent func()
	// onBear is told each time how long silence is borne. onLate hears of delays of this
	// process's own, or of the peer.
	onBear func(replication.Nanos)
	onLate func(own bool, late replication.Nanos)
}

func newJournal(lim replication.Limits, clk clock.Clock, millis func() uint32) *journal {
	j := &journal{
		clock: clk, start: clk.Now(), millis: millis,
		kicked: make(chan struct{}, 1), ticked: make(chan struct{}, 1),
		syncChanged: make(chan struct{}, 1), done: make(chan struct{}),
	}
	j.shell = shell.New(replication.New(lim), effects{j}, host{j})
	return j
}

func (j *journal) run() {
	j.wg.Add(2)
	go j.runner()
	go j.ticker()
}

func (j *journal) close() {
	close(j.done)
	j.wg.Wait()
}

// now is the core's time.
func (j *journal) now() replication.Nanos { return replication.Nanos(j.clock.Since(j.start)) }

// with runs f on the core and then sees to what follows from it.
func (j *journal) with(f func(c *replication.Core, now replication.Nanos)) {
	now := j.now()
	j.shell.With(now, func(c *replication.Core) { f(c, now) })
}

func nudge(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// step takes a frame from the peer; it runs on the session's reader.
func (j *journal) step(frame []byte) error { return j.shell.Step(j.now(), frame) }

// runner does what follows from inputs that cannot wait for it.
func (j *journal) runner() {
	defer j.wg.Done()
	for {
		select {
		case <-j.done:
			return
		case <-j.kicked:
			j.shell.Run(j.now())
		}
	}
}

// ticker runs the core's deadlines: heartbeats, response bytes to be shipped,
// tombstones' ends.
func (j *journal) ticker() {
	defer j.wg.Done()
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-j.done:
			return
		case <-j.ticked:
		case <-t.C:
			g := j.shell.Tick(j.now(), j.millis())
			j.late(true, g.Late)
			if j.onBear != nil {
				j.onBear(g.Bear)
			}
			if g.Silent && j.onSilent != nil {
				j.onSilent()
			}
		}
		wait := time.Hour
		if due := j.shell.Due(); due != replication.Never {
			wait = max(time.Duration(due-j.now()), 0)
		}
		t.Reset(wait)
	}
}

func (j *journal) late(own bool, late replication.Nanos) {
	if late > 0 && j.onLate != nil {
		j.onLate(own, late)
	}
}

// drain waits until the standby has confirmed everything, for limit at most. The
// engine must be mute, or more comes.
func (j *journal) drain(limit time.Duration) {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	look := time.NewTicker(200 * time.Microsecond)
	defer look.Stop()
	for !ask(j, (*replication.Core).Drained) {
		select {
		case <-look.C:
		case <-deadline.C:
			return
		case <-j.done:
			return
		}
	}
}

// drainAsync is drain on a goroutine; the channel is closed at its end.
func (j *journal) drainAsync(limit time.Duration) <-chan struct{} {
	done := make(chan struct{})
	j.wg.Add(1)
	go func() {
		defer j.wg.Done()
		defer close(done)
		j.drain(limit)
	}()
	return done
}

// host implements shell.Host with goroutines and channels.
type host struct{ j *journal }

func (h host) Kick()                  { nudge(h.j.kicked) }
func (h host) Wake(replication.Nanos) { nudge(h.j.ticked) }

func (h host) Heard(news shell.News) {
	if news.InSync {
		nudge(h.j.syncChanged)
	}
	h.j.late(false, news.Late)
	if h.j.onHeard != nil {
		h.j.onHeard()
	}
	if news.Fitness && h.j.onPeerFitness != nil {
		h.j.onPeerFitness()
	}
	if news.Orders && h.j.onPeerOrders != nil {
		h.j.onPeerOrders()
	}
}

func (h host) MayTakeOver() {
	if h.j.onSynced != nil {
		h.j.onSynced()
	}
}

// effects implements shell.Effects on the relay's connections.
type effects struct{ j *journal }

func (e effects) Unprotect(id replication.ConnID) {
	if c := e.j.relay.Lookup(id); c != nil {
		c.Unprotect()
	}
}

func (e effects) Unlogged(id replication.ConnID) {
	if c := e.j.relay.Lookup(id); c != nil {
		c.Unlogged()
	}
}

func (e effects) Opened(id replication.ConnID) {
	if c := e.j.relay.Lookup(id); c != nil {
		c.Opened()
	}
}

func (e effects) LegHeld(id replication.ConnID) {
	if c := e.j.relay.Lookup(id); c != nil {
		c.LegHeld()
	}
}

func (e effects) Decided(h replication.Held) {
	if e.j.onDecided != nil {
		e.j.onDecided(h)
	}
}

func (e effects) Permit(p replication.Permit) {
	if c := e.j.relay.Lookup(p.ID); c != nil {
		c.Permit(p.Stream, p.Off)
	}
}

func (e effects) Need(n replication.Range) {
	if c := e.j.relay.Lookup(n.ID); c != nil {
		c.Need(n.Stream, n.From, n.To)
	}
}

func (e effects) Adopt(id replication.ConnID) { e.j.relay.Adopt(id) }

// Open implements relay.Journal.
func (j *journal) Open(c *relay.Conn, r replication.Record) {
	c.Protect()
	if err := j.shell.Open(j.now(), &r); err != nil {
		// The core does not take it: the connection goes on, unprotected.
		c.Unprotect()
		c.Opened()
	}
}

// Continued implements relay.Journal.
func (j *journal) Continued(id replication.ConnID) { _ = j.shell.Continued(j.now(), id) }

// Adopt implements relay.Journal. Refusals are counted by the core.
func (j *journal) Adopt(_ *relay.Conn, r replication.Record, pos [2]replication.StreamPos, l *replication.Log) error {
	if err := j.shell.Adopt(j.now(), &r, pos, l); err != nil {
		return fmt.Errorf("adopt connection %d: %w", r.ID, err)
	}
	return nil
}

// Terminate implements relay.Journal.
func (j *journal) Terminate(r replication.Record, pos [2]replication.StreamPos) error {
	if err := j.shell.Terminate(j.now(), &r, pos); err != nil {
		return fmt.Errorf("terminate connection %d: %w", r.ID, err)
	}
	return nil
}

// Data implements relay.Journal. Refusals are counted by the core; the gate then
// stays where it is until the core gives the connection up.
func (j *journal) Data(id replication.ConnID, s replication.Stream, off uint64, bufs [][]byte, fin bool) {
	_ = j.shell.Data(j.now(), id, s, off, bufs, fin)
}

// Received implements relay.Journal.
func (j *journal) Received(id replication.ConnID, s replication.Stream, off uint64, fin bool) {
	_ = j.shell.Received(j.now(), id, s, off, fin)
}

// Delivered implements relay.Journal. It runs on the packet path.
func (j *journal) Delivered(id replication.ConnID, s replication.Stream, off uint64) {
	_ = j.shell.Delivered(j.now(), id, s, off)
}

// Close implements relay.Journal.
func (j *journal) Close(id replication.ConnID, k replication.CloseKind) {
	_ = j.shell.Close(j.now(), id, k)
}

// Congested implements relay.Journal.
func (j *journal) Congested() bool { return j.shell.Congested() }

// MaySplice implements relay.Journal.
func (j *journal) MaySplice() bool { return ask(j, (*replication.Core).MaySplice) }

// MayTerminate implements relay.Journal.
func (j *journal) MayTerminate() bool { return ask(j, (*replication.Core).MayTerminate) }

// Released implements relay.Journal.
func (j *journal) Released(id replication.ConnID, r replication.Released) {
	_ = j.shell.Released(j.now(), id, r)
}

// Checkpoint implements relay.Journal.
func (j *journal) Checkpoint(id replication.ConnID, off [2]uint64) {
	_ = j.shell.Checkpoint(j.now(), id, off)
}

// ServerLeg implements relay.Journal. A leg that the core refuses is one that the standby
// cannot continue.
func (j *journal) ServerLeg(id replication.ConnID, leg replication.LegRecord, start [2]uint64) {
	if err := j.shell.ServerLeg(j.now(), id, &leg, start); err != nil {
		j.Forgo(id)
	}
}

// Forgo implements relay.Journal.
func (j *journal) Forgo(id replication.ConnID) { _ = j.shell.Forgo(j.now(), id) }

// Unlog implements relay.Journal.
func (j *journal) Unlog(id replication.ConnID) { _ = j.shell.Unlog(j.now(), id) }

var _ relay.Journal = (*journal)(nil)
