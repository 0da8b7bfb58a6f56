package voter

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/appliance/statefile"
	"lockstep/internal/clock"
	"lockstep/replication"
	"lockstep/replication/arbiter"
	"lockstep/replication/courier"
	"lockstep/replication/identity"
	"lockstep/replication/transport"
)

// Config is what a voter needs.
type Config struct {
	Identity   *identity.Identity // says who we are
	Boot       uint64             // drawn at the start of the process, never 0
	Appliances [2]string
	Witness    string
	// Addrs are the addresses of the voters that we dial: an appliance dials the
	// witness, and of the two appliances the one with the smaller name the other. More
	// do no harm.
	Addrs map[string]netip.AddrPort
	Local netip.Addr      // dialled from; zero: whichever the system takes
	Port  *transport.Port // where the others reach us; must outlive the voter

	Heartbeat, FailureTimeout time.Duration // as on the other two
	Patience                  time.Duration // see arbiter.Config; 0: its default
	Clock                     clock.Clock   // of promises and leases; nil: the system's

	State string // path of the file that the voter keeps its memory in, see StatePath
	// OnLease is called on the voter's goroutine, before anything else that follows
	// from the same event, whenever the lease moves: we are the active of epoch and may
	// speak before until, a reading of Clock. The zero time: not at all.
	// Whoever still serves connections of another epoch must not. It must be quick, and
	// may be called before Start returns. May be nil.
	OnLease func(epoch uint64, until time.Time)
	Log     *slog.Logger
}

// Voter is a running voter.
type Voter struct {
	cfg     Config
	self    arbiter.Member
	start   time.Time
	core    *arbiter.Core // of the loop's goroutine
	file    *statefile.File
	courier *courier.Courier

	calls chan func(now replication.Nanos) // inputs, run on the loop's goroutine
	inbox chan letter
	quit  chan struct{} // closed by Close
	done  chan struct{} // closed when the loop has ended
	once  sync.Once

	lease      time.Time // of the loop: what OnLease was told last, for leaseEpoch
	leaseEpoch uint64
	pace       pace // of the loop

	news     chan News // cap 1; the loop is the only sender
	mu       sync.Mutex
	latest   News             // guarded by mu; without Claimed
	counters arbiter.Counters // guarded by mu
	voterAtomics
}

// voterAtomics need no lock.
type voterAtomics struct {
	refused  atomic.Uint64
	failures atomic.Uint64
	stalls   atomic.Uint64
	delay    atomic.Int64 // nanoseconds, see SetPatience
}

// letter is a message of another voter.
type letter struct {
	from arbiter.Member
	msg  []byte
}

// waiting is how many messages and inputs wait for the voter at most. More wait in
// the senders' queues, which drop their oldest.
const waiting = 256

// Start begins to vote.
func Start(cfg Config) (*Voter, error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	v := &Voter{
		cfg: cfg, self: arbiter.Member{Node: cfg.Identity.Node, Boot: cfg.Boot}, start: cfg.Clock.Now(),
		calls: make(chan func(replication.Nanos), waiting), inbox: make(chan letter, waiting),
		quit: make(chan struct{}), done: make(chan struct{}), news: make(chan News, 1),
	}
	if cfg.OnLease == nil {
		v.cfg.OnLease = func(uint64, time.Time) {}
	}
	var err error
	if v.file, err = statefile.Open(cfg.State); err != nil {
		return nil, err
	}
	if err := v.begin(); err != nil {
		v.file.Close()
		return nil, err
	}
	return v, nil
}

func (v *Voter) begin() error {
	remotes, err := v.remotes()
	if err != nil {
		return err
	}
	content, err := v.file.Load()
	if err != nil {
		return err
	}
	before, stored, err := decodeMemory(content)
	if err != nil {
		return fmt.Errorf("read %q: %w", v.file.Path(), err)
	}
	v.core, err = arbiter.New(arbiter.Config{
		Self: v.self, Appliances: v.cfg.Appliances, Witness: v.cfg.Witness,
		Heartbeat: replication.Nanos(v.cfg.Heartbeat), FailureTimeout: replication.Nanos(v.cfg.FailureTimeout),
		Patience: replication.Nanos(v.cfg.Patience), Stored: stored,
	})
	if err != nil {
		return fmt.Errorf("begin to vote with the state in %q: %w", v.file.Path(), err)
	}
	v.courier, err = courier.Start(courier.Config{
		Self: courier.Peer(v.self), Identity: v.cfg.Identity, Remotes: remotes, Port: v.cfg.Port, Local: v.cfg.Local,
		FailureTimeout: v.cfg.FailureTimeout, Receive: v.receive, Log: v.cfg.Log,
	})
	if err != nil {
		return fmt.Errorf("reach the other voters: %w", err)
	}
	go v.loop(before)
	return nil
}

// remotes says how we reach the two others.
func (v *Voter) remotes() ([]courier.Remote, error) {
	self := v.self.Node
	names := append(v.cfg.Appliances[:], v.cfg.Witness)
	if !slices.Contains(names, self) {
		return nil, fmt.Errorf("node %q is none of the voters %v", self, names)
	}
	var all []courier.Remote
	for _, node := range names {
		if node == self {
			continue
		}
		r := courier.Remote{Node: node}
		if self != v.cfg.Witness && (node == v.cfg.Witness || self < node) {
			addr, ok := v.cfg.Addrs[node]
			if !ok {
				return nil, fmt.Errorf("no address of voter %q, which %s has to dial", node, self)
			}
			r.Addr = addr
		}
		all = append(all, r)
	}
	return all, nil
}

// Close ends the voter without a word to the others and returns when every
// goroutine has ended. OnLease is not called any more then.
func (v *Voter) Close() {
	v.once.Do(func() {
		close(v.quit)
		<-v.done
		v.courier.Close()
		if err := v.file.Close(); err != nil {
			v.cfg.Log.Warn("close the voter's state file", "error", err.Error())
		}
	})
}

// SetPatience is told how long this appliance bears silence, if that is longer than
// FailureTimeout: the voter asks for votes that much later. It never blocks.
func (v *Voter) SetPatience(d time.Duration) { v.delay.Store(int64(max(d-v.cfg.FailureTimeout, 0))) }

// PeerGone is told proof that an incarnation is dead: its own host's kernel refuses
// connections for it.
func (v *Voter) PeerGone(m arbiter.Member) {
	v.call(func(now replication.Nanos) { v.core.PeerGone(now, m) })
}

// SetAble is told whether this standby's store could continue the connections of
// the active of epoch.
func (v *Voter) SetAble(epoch uint64, able bool) {
	v.call(func(now replication.Nanos) { v.core.SetAble(now, epoch, able) })
}

// AddStandby is told by the active's shell that m holds everything.
func (v *Voter) AddStandby(m arbiter.Member) {
	v.call(func(now replication.Nanos) { v.core.AddStandby(now, m) })
}

// RemoveStandby asks to go on alone. It has happened when News.Solo says so.
func (v *Voter) RemoveStandby() {
	v.call(func(now replication.Nanos) { v.core.RemoveStandby(now) })
}

// Yield asks that the standby, node to, takes over: we are mute and it was told
// everything. See arbiter.Core.Yield; it waits for the voter to begin.
func (v *Voter) Yield(to string) error {
	result := make(chan error, 1)
	v.call(func(now replication.Nanos) { result <- v.core.Yield(now, to) })
	select {
	case err := <-result:
		return err
	case <-v.done:
		return errClosed
	}
}

// Answer returns when the voter's goroutine has come by: it lives.
func (v *Voter) Answer() error {
	answered := make(chan struct{})
	v.call(func(replication.Nanos) { close(answered) })
	select {
	case <-answered:
		return nil
	case <-v.done:
		return errClosed
	}
}

// errClosed says that the voter was closed.
var errClosed = errors.New("voter: closed")

// call runs f on the voter's goroutine, later. It blocks only while the voter
// cannot write its file and many inputs wait.
func (v *Voter) call(f func(now replication.Nanos)) {
	select {
	case v.calls <- f:
	case <-v.quit:
	}
}

// receive takes a message from the courier.
func (v *Voter) receive(from courier.Peer, msg []byte) {
	select {
	case v.inbox <- letter{arbiter.Member(from), slices.Clone(msg)}:
	case <-v.quit:
	}
}

// now is the core's time.
func (v *Voter) now() replication.Nanos { return replication.Nanos(v.cfg.Clock.Since(v.start)) }

// StatePath is the path of a pair's file in a state directory.
func StatePath(dir, pair string) string { return filepath.Join(dir, pair+".voter") }

// Self is this incarnation.
func (v *Voter) Self() arbiter.Member { return v.self }

// Stats are a voter's counters.
type Stats struct {
	News     News // the newest, without Claimed
	Arbiter  arbiter.Counters
	Refused  uint64 // messages that the core could make nothing of
	Failures uint64 // attempts to write the state file that failed
	Stalls   uint64 // late looks at the clock
	Courier  courier.Stats
}

// Stats returns a copy of the counters.
func (v *Voter) Stats() Stats {
	v.mu.Lock()
	latest, counters := v.latest, v.counters
	v.mu.Unlock()
	return Stats{
		News: latest, Arbiter: counters, Refused: v.refused.Load(), Failures: v.failures.Load(), Stalls: v.stalls.Load(),
		Courier: v.courier.Stats(),
	}
}
