package arbiter

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"

	"lockstep/replication"
)

// Nanos is the core's time, see replication.Nanos.
type Nanos = replication.Nanos

const millisecond Nanos = 1_000_000

// maxLog is how many entries the log holds before a snapshot takes their place. A
// quarter stays in memory for a voter that is a little behind.
const maxLog = 64

// Config says who votes. Equal on all three voters but for Self and Stored.
type Config struct {
	Self       Member    // Self.Node is one of the appliances, or Witness
	Appliances [2]string // voter names, in any order
	Witness    string    // voter name of the witness

	Heartbeat      Nanos // period of the leader's rounds; 0: 20 ms
	FailureTimeout Nanos // 2 heartbeats at least; 0: 100 ms

	// Patience: how long a leader that holds nothing waits for one that may hold
	// connections. 0: the larger of 1 s and 10 FailureTimeout; 3 FailureTimeout at
	// least.
	Patience Nanos

	// Stored is what Persist last said before the restart; nil: first start, or the
	// disk is lost.
	Stored []byte
}

// Core is one voter. Its methods must not run concurrently.
type Core struct {
	self    Member
	id      uint64
	witness bool
	names   [3]string // by id-1
	peers   [3]peer   // by id-1; the own one is not used

	heartbeat, failure, patience Nanos
	firstStart                   Nanos // how long a voter without memory waits for one that does not answer

	now     Nanos
	started bool // a first input has said what time it is

	agreed

	vote  voting
	lead  leading
	join  joining
	claim claiming

	out      Ready
	counters Counters
}

// agreed is the log of the voters, and what it says.
type agreed struct {
	node  *raft.RawNode
	disk  *raft.MemoryStorage
	state State  // newest committed
	tail  logEnd // of our log
	index uint64 // newest applied entry
	dirty bool   // the disk changed since Persist
	limit uint64 // maxLog, less in tests
}

// peer is what is known of another voter's incarnations.
type peer struct {
	boot  uint64 // of the newest one heard of; 0: none
	heard Nanos  // when
	dead  []uint64
}

// maxDead is how many dead incarnations of a node are remembered.
const maxDead = 8

// New makes a voter. An error says which part of the configuration is wrong, or what
// to do about the stored state.
func New(cfg Config) (*Core, error) {
	c := &Core{self: cfg.Self, agreed: agreed{limit: maxLog}}
	if err := c.configure(&cfg); err != nil {
		return nil, err
	}
	s := &stored{}
	if cfg.Stored != nil {
		var err error
		if s, err = decodeStored(c.names, c.self.Node, cfg.Stored); err != nil {
			return nil, fmt.Errorf("read the arbiter's stored state: %w", err)
		}
	}
	if err := c.start(s); err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	return c, nil
}

func (c *Core) configure(cfg *Config) error {
	a, b := cfg.Appliances[0], cfg.Appliances[1]
	c.names = [3]string{min(a, b), max(a, b), cfg.Witness}
	for i, n := range c.names {
		if n == "" || len(n) > maxName {
			return fmt.Errorf("voter name %q must have 1 to %d bytes: %w", n, maxName, ErrConfig)
		}
		if n == c.self.Node {
			c.id = uint64(i + 1)
		}
	}
	c.witness = c.id == 3
	c.heartbeat, c.failure, c.patience = cfg.Heartbeat, cfg.FailureTimeout, cfg.Patience
	if c.heartbeat == 0 {
		c.heartbeat = 20 * millisecond
	}
	if c.failure == 0 {
		c.failure = 100 * millisecond
	}
	c.firstStart = max(1000*millisecond, 10*c.failure)
	if c.patience == 0 {
		c.patience = c.firstStart
	}
	c.firstStart = min(c.firstStart, c.patience)
	switch {
	case a == b || a == cfg.Witness || b == cfg.Witness:
		return fmt.Errorf("voters %q must have three different names: %w", c.names, ErrConfig)
	case c.id == 0:
		return fmt.Errorf("%q is none of the voters %q: %w", c.self.Node, c.names, ErrConfig)
	case c.self.Boot == 0:
		return fmt.Errorf("boot number is 0: %w", ErrConfig)
	case c.heartbeat < millisecond || c.failure < 2*c.heartbeat || c.failure > 1<<50:
		return fmt.Errorf("failure time-out %d ns must be two heartbeats (%d ns) or more: %w", c.failure, c.heartbeat, ErrConfig)
	case c.patience < 3*c.failure || c.patience > 1<<55:
		return fmt.Errorf("patience %d ns must be three failure time-outs (%d ns) or more: %w", c.patience, c.failure, ErrConfig)
	}
	return nil
}

// start makes raft from what is stored. Raft's own timers never run (its Tick is
// not called), so that nothing depends on the random time-outs it draws; the values
// here only satisfy its checks.
func (c *Core) start(s *stored) error {
	c.join.restore(s)
	c.state = s.state
	c.index = s.index
	c.disk = raft.NewMemoryStorage()
	var data []byte
	if s.index > 0 {
		data = appendState(nil, s.state)
	}
	if err := c.disk.ApplySnapshot(snapshot(s.index, s.sTerm, data)); err != nil {
		return err
	}
	if err := c.disk.Append(s.entries); err != nil {
		return err
	}
	if s.term > 0 {
		hs := &pb.HardState{Term: new(s.term), Vote: new(s.vote), Commit: new(s.commit)}
		if err := c.disk.SetHardState(hs); err != nil {
			return err
		}
	}
	node, err := raft.NewRawNode(&raft.Config{
		ID: c.id, ElectionTick: 10, HeartbeatTick: 1, Storage: c.disk, Applied: s.index,
		MaxSizePerMsg: 16 << 10, MaxInflightMsgs: 64, MaxUncommittedEntriesSize: 64 << 10,
		CheckQuorum: true, PreVote: true, DisableProposalForwarding: true, Logger: silent{},
	})
	if err != nil {
		return err
	}
	c.node = node
	c.pump()
	return nil
}

// advance moves the core's time, which does not go back. The first input is the
// start of this voter: it does not know which leader it promised what before.
func (c *Core) advance(now Nanos) {
	c.now = max(c.now, now)
	if !c.started {
		c.started = true
		c.begin()
	}
}

// Tick does what is due. Call it at least every Heartbeat, and best at NextTick.
func (c *Core) Tick(now Nanos) {
	c.advance(now)
	c.ask()
	if c.leads() {
		c.beat()
	} else {
		c.maybeCampaign()
	}
	c.settle()
}

// NextTick returns when Tick has something to do, not before now.
func (c *Core) NextTick(now Nanos) Nanos {
	c.advance(now)
	at := c.now + c.heartbeat
	switch {
	case c.leads():
		at = min(at, c.lead.beatAt)
	case c.canCampaign():
		at = min(at, c.campaignAt())
	}
	return max(at, c.now)
}

// Step takes a message of another voter. Nothing of msg is kept. After an error the
// message has had no effect but that its sender may have been heard of; the error is
// counted.
func (c *Core) Step(now Nanos, from Member, msg []byte) error {
	c.advance(now)
	id := c.voter(from.Node)
	if id == 0 || id == c.id || from.Boot == 0 {
		c.counters.Unknown++
		return fmt.Errorf("from %v: %w", from, ErrUnknown)
	}
	p := &c.peers[id-1]
	if slices.Contains(p.dead, from.Boot) {
		c.counters.Gone++
		return fmt.Errorf("from %v: %w", from, ErrGone)
	}
	if err := c.receive(id, from, msg); err != nil {
		return fmt.Errorf("message of %d bytes from %v: %w", len(msg), from, err)
	}
	p.boot, p.heard = from.Boot, c.now
	c.settle()
	return nil
}

func (c *Core) receive(id uint64, from Member, msg []byte) error {
	r := &reader{b: msg}
	if len(msg) > maxMessage || r.byte() != wireVersion {
		c.counters.Malformed++
		return ErrMalformed
	}
	var err error
	switch r.byte() {
	case kindRaft:
		m := r.raft(id, c.id)
		if m == nil {
			err = ErrMalformed
			break
		}
		err = c.stepRaft(from, m)
	case kindAsk:
		err = c.asked(id, r)
	case kindAnswer:
		err = c.answered(id, r)
	default:
		err = ErrMalformed
	}
	switch err {
	case nil:
	case ErrMalformed:
		c.counters.Malformed++
	default:
		c.counters.Contradicting++
	}
	return err
}

// PeerGone tells that m's process is dead, for certain: no message of it counts from
// now on. If it was the active, this voter need not wait for its lease.
func (c *Core) PeerGone(now Nanos, m Member) {
	c.advance(now)
	id := c.voter(m.Node)
	if id == 0 || id == c.id || m.Boot == 0 {
		return
	}
	p := &c.peers[id-1]
	if !slices.Contains(p.dead, m.Boot) {
		if len(p.dead) == maxDead {
			p.dead = slices.Delete(p.dead, 0, 1)
		}
		p.dead = append(p.dead, m.Boot)
	}
	if p.boot == m.Boot {
		p.boot = 0
	}
	if !c.leads() {
		c.maybeCampaign()
	}
	c.settle()
}

// settle carries out what raft wants and lets a leader decide, until nothing moves.
func (c *Core) settle() {
	c.pump()
	for c.decide() {
		c.pump()
	}
	c.extend()
	c.compact()
}

// voter returns the number of a voter, 0 if there is none of that name.
func (c *Core) voter(name string) uint64 {
	for i, n := range c.names {
		if n == name {
			return uint64(i + 1)
		}
	}
	return 0
}

// dead reports whether m's process is proved to be dead.
func (c *Core) dead(m Member) bool {
	id := c.voter(m.Node)
	return id != 0 && id != c.id && slices.Contains(c.peers[id-1].dead, m.Boot)
}

// gone reports whether m can hold nothing any more: it is nobody, proved dead, or
// its node has been heard as another incarnation.
func (c *Core) gone(m Member) bool {
	id := c.voter(m.Node)
	if id == 0 || id == c.id {
		return m != c.self
	}
	p := &c.peers[id-1]
	return c.dead(m) || p.boot != 0 && p.boot != m.Boot
}

// heardOf reports whether m was heard of within FailureTimeout.
func (c *Core) heardOf(m Member) bool {
	id := c.voter(m.Node)
	if id == 0 || id == c.id {
		return m == c.self
	}
	p := &c.peers[id-1]
	return m.Boot != 0 && p.boot == m.Boot && c.now-p.heard < c.failure
}

// quorum reports whether another voter was heard within FailureTimeout.
func (c *Core) quorum() bool {
	for i := range c.peers {
		p := &c.peers[i]
		if uint64(i+1) != c.id && p.boot != 0 && c.now-p.heard < c.failure {
			return true
		}
	}
	return false
}
