package appliance

import (
	"fmt"
	"sync"
	"time"

	"lockstep/appliance/relay"
	"lockstep/internal/clock"
	"lockstep/replication"
)

// frameSender is the sync session as the journal sees it.
type frameSender interface {
	Send(frame []byte) error
}

// journal is the shell around the replication core: it serialises the inputs,
// reads the clock, sends what the core wants sent, and carries out its Ready.
//
// Lock order: applyMu > sendMu > mu; mu is a leaf and held for the core's own
// time only. Nothing of the stack is called with mu held.
type journal struct {
	clock clock.Clock
	start time.Time    // a reading of clock
	relay *relay.Relay // set before the first input

	// applyMu makes Ready's effects happen in order, one Ready at a time.
	applyMu sync.Mutex

	// sendMu orders frames on the session.
	sendMu sync.Mutex
	sess   frameSender
	buf    []byte

	mu     sync.Mutex
	core   *replication.Core
	millis func() uint32 // the engine's TSval clock

	kicked  chan struct{} // cap 1: something to send
	ticked  chan struct{} // cap 1: NextTick may have moved
	done    chan struct{}
	wg      sync.WaitGroup
	sendErr func(error) // told when the session cannot be written
	// onHeard is told of every frame of the peer.
	onHeard func()
	// onSynced is told before the frame leaves that lets the standby take over.
	onSynced   func()
	saidSynced bool // guarded by sendMu: it was told in this session
	// onPeerFitness is told when the peer has said whether it could serve.
	onPeerFitness func()
	// onSilent is told when the peer has not been heard of for too long.
	onSilent func()
	// syncChanged (cap 1) tells that the standby came in sync, or fell out of it.
	syncChanged chan struct{}
	wasInSync   bool   // guarded by mu
	timing      timing // guarded by mu, but for what is set before run
}

func newJournal(lim replication.Limits, clk clock.Clock, millis func() uint32, sendErr func(error)) *journal {
	return &journal{
		clock: clk, start: clk.Now(), core: replication.New(lim), millis: millis, sendErr: sendErr,
		syncChanged: make(chan struct{}, 1),
		kicked:      make(chan struct{}, 1), ticked: make(chan struct{}, 1), done: make(chan struct{}),
	}
}

func (j *journal) run() {
	j.wg.Add(2)
	go j.sender()
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
	j.mu.Lock()
	f(j.core, j.now())
	j.mu.Unlock()
	j.apply()
	j.flush()
	nudge(j.ticked)
}

// quietly runs f on the core; what follows from it waits for the next input.
func (j *journal) quietly(f func(c *replication.Core)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	f(j.core)
}

func nudge(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Open implements relay.Journal.
func (j *journal) Open(c *relay.Conn, r replication.Record) {
	c.Protect()
	j.mu.Lock()
	err := j.core.Open(j.now(), &r)
	flushable := j.core.Flushable()
	j.mu.Unlock()
	if err != nil {
		// The core does not take it: the connection goes on, unprotected.
		c.Unprotect()
		c.Opened()
		return
	}
	j.apply()
	if flushable {
		nudge(j.kicked)
	}
}

// Adopt implements relay.Journal. Refusals are counted by the core.
func (j *journal) Adopt(_ *relay.Conn, r replication.Record, pos [2]replication.StreamPos, l *replication.Log) error {
	j.mu.Lock()
	err := j.core.Adopt(j.now(), &r, pos, l)
	flush := j.core.Asked() == 0 && j.core.Flushable()
	j.mu.Unlock()
	j.apply() // who is next
	if flush {
		nudge(j.kicked)
	}
	if err != nil {
		return fmt.Errorf("adopt connection %d: %w", r.ID, err)
	}
	return nil
}

// Data implements relay.Journal. Refusals are counted by the core; the gate then
// stays where it is until the core gives the connection up.
func (j *journal) Data(id replication.ConnID, s replication.Stream, off uint64, bufs [][]byte, fin bool) {
	j.mu.Lock()
	now := j.now()
	for i, b := range bufs {
		_ = j.core.Data(now, id, s, off, b, fin && i == len(bufs)-1)
		off += uint64(len(b))
	}
	if fin && len(bufs) == 0 {
		_ = j.core.Data(now, id, s, off, nil, true)
	}
	flushable := j.core.Flushable()
	j.mu.Unlock()
	if flushable {
		nudge(j.kicked)
	}
}

// Received implements relay.Journal.
func (j *journal) Received(id replication.ConnID, s replication.Stream, off uint64, fin bool) {
	j.mu.Lock()
	_ = j.core.Received(j.now(), id, s, off, fin)
	j.mu.Unlock()
	nudge(j.ticked)
}

// Delivered implements relay.Journal. It runs on the packet path.
func (j *journal) Delivered(id replication.ConnID, s replication.Stream, off uint64) {
	j.mu.Lock()
	_ = j.core.Delivered(j.now(), id, s, off)
	flushable := j.core.Flushable()
	j.mu.Unlock()
	if flushable {
		nudge(j.kicked)
	}
}

// Close implements relay.Journal.
func (j *journal) Close(id replication.ConnID, k replication.CloseKind) {
	j.mu.Lock()
	_ = j.core.Close(j.now(), id, k)
	flushable := j.core.Flushable()
	j.mu.Unlock()
	if flushable {
		nudge(j.kicked)
	}
}

// Congested implements relay.Journal.
func (j *journal) Congested() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.core.Congested()
}

// step takes a frame from the peer; it runs on the session's reader.
func (j *journal) step(frame []byte) error {
	j.mu.Lock()
	before, now := j.core.Heard(), j.now()
	err := j.core.Step(now, frame)
	var late replication.Nanos
	if err == nil {
		late = j.timing.heardAfter(before, now)
	}
	in := j.core.InSync()
	said := j.core.FitnessSaid()
	changed := in != j.wasInSync
	j.wasInSync = in
	j.mu.Unlock()
	if changed {
		nudge(j.syncChanged)
	}
	if err != nil {
		return err
	}
	j.timing.warn(false, late)
	if j.onHeard != nil {
		j.onHeard()
	}
	if said && j.onPeerFitness != nil {
		j.onPeerFitness()
	}
	// The answer leaves from here: one hand-over between goroutines less on the
	// path that every held ACK waits for.
	j.flush()
	j.apply()
	return nil
}

// apply carries out what the core has ready, in its order.
func (j *journal) apply() {
	j.applyMu.Lock()
	defer j.applyMu.Unlock()
	j.mu.Lock()
	rd := j.core.Ready()
	j.mu.Unlock()
	if rd.Empty() {
		return
	}
	// Released needs nothing here: Unprotected names every connection the core
	// knows, and no other may be opened.
	for _, id := range rd.Unprotected {
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

// flush sends what may be sent now.
func (j *journal) flush() {
	j.sendMu.Lock()
	defer j.sendMu.Unlock()
	for j.sess != nil {
		j.mu.Lock()
		if !j.core.Flushable() {
			j.mu.Unlock()
			return
		}
		j.buf = j.core.Flush(j.buf[:0])
		synced := j.core.SaidSynced()
		j.mu.Unlock()
		if synced && !j.saidSynced {
			j.saidSynced = true
			if j.onSynced != nil {
				j.onSynced()
			}
		}
		if len(j.buf) == 0 {
			return
		}
		if err := j.sess.Send(j.buf); err != nil {
			j.sess = nil
			j.sendErr(err)
			return
		}
	}
}

// attach gives the journal a session to send on, or nil.
func (j *journal) attach(s frameSender) {
	j.sendMu.Lock()
	j.sess, j.saidSynced = s, false
	j.sendMu.Unlock()
}

func (j *journal) sender() {
	defer j.wg.Done()
	for {
		select {
		case <-j.done:
			return
		case <-j.kicked:
			j.flush()
		}
	}
}

// ticker runs the core's deadlines: heartbeats, response bytes to be shipped,
// tombstones' ends.
func (j *journal) ticker() {
	defer j.wg.Done()
	t := time.NewTimer(0)
	defer t.Stop()
	var silence silenceJudge
	for {
		select {
		case <-j.done:
			return
		case <-j.ticked:
		case <-t.C:
			fired := j.now() // before the lock, which is not what a CPU is missed for
			j.mu.Lock()
			now := j.now()
			late := j.timing.fired(fired)
			j.core.SetClock(now, j.millis())
			j.core.Tick(now)
			bear := j.timing.patience.Effective(now)
			j.core.SetPatience(bear, j.timing.fresh)
			silent := j.core.PeerSilent(now)
			j.mu.Unlock()
			j.timing.warn(true, late)
			if j.timing.tell != nil {
				j.timing.tell(bear)
			}
			if silence.judge(silent, time.Duration(now)) {
				j.onSilent()
			}
			j.apply()
			j.flush()
		}
		j.mu.Lock()
		now := j.now()
		next := j.core.NextTick(now)
		wait := time.Hour
		if silence.looks > 0 {
			wait = silentPause
		} else if next != replication.Never {
			wait = max(time.Duration(next-now), silentPause)
		}
		j.timing.due = now + replication.Nanos(wait)
		j.mu.Unlock()
		t.Reset(wait)
	}
}

// silentPause is the least time between two looks at the peer's silence.
const silentPause = time.Millisecond

// silenceJudge keeps this process's own stalls from looking like the peer's
// death: after a pause of ours (no CPU, a stopped VM) the silence is long, but
// its frames are waiting to be read. So silence counts only once it has been
// seen by several looks in a row that came on time.
type silenceJudge struct {
	looks int
	last  time.Duration
}

const (
	silentLooks = 4
	lateLook    = 5 * time.Millisecond
)

// judge takes one look and tells whether the peer is to be taken for dead.
func (s *silenceJudge) judge(silent bool, now time.Duration) bool {
	late := now-s.last > lateLook
	s.last = now
	if !silent || late {
		s.looks = 0
	}
	if silent {
		s.looks++
	}
	return s.looks >= silentLooks
}

// drain waits until the standby has confirmed everything, for limit at most. The
// engine must be mute, or more comes.
func (j *journal) drain(limit time.Duration) {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	look := time.NewTicker(200 * time.Microsecond)
	defer look.Stop()
	for {
		j.mu.Lock()
		drained := j.core.Drained()
		j.mu.Unlock()
		if drained {
			return
		}
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

// takeover takes all connections out of the core, and tells what to add to their
// TSOffsets: the former active's clock less ours, never too small.
func (j *journal) takeover(epoch uint64) (all []replication.Continue, shift uint32, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	all, err = j.core.Takeover(epoch)
	if err != nil {
		return nil, 0, err
	}
	own := j.millis()
	if est, ok := j.core.PeerClock(own); ok {
		shift = est - own
	}
	rtt := uint32(j.core.RTT() / 1_000_000)
	return all, shift + rtt + shiftMargin, nil
}
