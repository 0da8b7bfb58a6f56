package courier

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/replication/identity"
	"lockstep/replication/transport"
	"lockstep/replication/wire"
)

// protocol is the ALPN name of the voters' connections.
const protocol = "lockstep-arbiter"

// maxMessage is the longest message, bytes.
const maxMessage = wire.MaxVoterMessage

// Peer is one incarnation of a voter: Boot is drawn anew each time its process
// starts.
type Peer struct {
	Node string
	Boot uint64
}

// Remote is another voter.
type Remote struct {
	Node string
	Addr netip.AddrPort // where to dial it; zero: it dials us
}

// Config is what a courier needs. Durations and counts left zero get defaults.
type Config struct {
	Self     Peer // Self.Node is the identity's node
	Identity *identity.Identity
	Remotes  []Remote
	// Port is where the remotes without an address reach us; it must outlive the
	// courier. nil is right if there are none.
	Port  *transport.Port
	Local netip.Addr // dialled from; zero: whichever the system takes
	// FailureTimeout must be the same on all voters: the lease of an active is only
	// as good as the others' patience. Who has another one is refused.
	FailureTimeout time.Duration
	// Receive is told each message; msg is valid only until it returns. A voter's
	// messages come one at a time and in order. While Receive does not return,
	// nothing more is read from that voter.
	Receive func(from Peer, msg []byte)
	// Up is told when a voter is connected and when it no longer is, in turns, and
	// never while Receive runs for the same voter. May be nil.
	Up  func(p Peer, up bool)
	Log *slog.Logger

	Queue            int           // messages waiting per voter; the oldest is dropped; default 64
	HandshakeTimeout time.Duration // of a connection that we dial, TCP included; default 1s
	WriteTimeout     time.Duration // a write that takes longer ends the connection; default 1s
	UserTimeout      time.Duration // so do sent bytes unacknowledged for so long; default 1s
	RedialMin        time.Duration // pause after the first failed dial, doubling; default 20ms
	RedialMax        time.Duration // default 500ms
}

func (c Config) withDefaults() Config {
	setDefault(&c.Queue, 64)
	setDefault(&c.HandshakeTimeout, time.Second)
	setDefault(&c.WriteTimeout, time.Second)
	setDefault(&c.UserTimeout, time.Second)
	setDefault(&c.RedialMin, 20*time.Millisecond)
	setDefault(&c.RedialMax, 500*time.Millisecond)
	if c.Up == nil {
		c.Up = func(Peer, bool) {}
	}
	return c
}

func setDefault[T int | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Courier keeps the connections with the other voters.
type Courier struct {
	cfg     Config
	remotes map[string]*remote // read-only
	ctx     context.Context    // ends with Close
	cancel  context.CancelFunc
	leave   func() // ends what the port does for us
	// wg joins every goroutine. Those of accepted connections are added within the
	// port's call of accepted, which leave waits for.
	wg sync.WaitGroup

	refused, closed transport.Counters
	unsendable      atomic.Uint64  // messages for nobody, or too long
	said            transport.Once // refusals of nobody in particular
}

// Start dials the remotes that have an address and waits for the others.
func Start(cfg Config) (*Courier, error) {
	cfg = cfg.withDefaults()
	if cfg.Identity.Node != cfg.Self.Node {
		return nil, fmt.Errorf("identity belongs to node %q, this is %q (%s)", cfg.Identity.Node, cfg.Self.Node, identity.Hint)
	}
	c := &Courier{cfg: cfg, remotes: map[string]*remote{}, leave: func() {}}
	for _, r := range cfg.Remotes {
		if !cfg.Identity.Has(r.Node) {
			return nil, fmt.Errorf("identity holds no certificate of node %q (%s)", r.Node, identity.Hint)
		}
		if !r.Addr.IsValid() && cfg.Port == nil {
			return nil, fmt.Errorf("node %q has no address and there is no port for it to dial", r.Node)
		}
		c.remotes[r.Node] = newRemote(c, r)
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if cfg.Port != nil {
		var err error
		c.leave, err = cfg.Port.Handle(transport.Service{Protocol: protocol, Identity: cfg.Identity, Accept: c.accepted})
		if err != nil {
			c.cancel()
			return nil, fmt.Errorf("wait for other voters: %w", err)
		}
	}
	for _, r := range cfg.Remotes {
		if r.Addr.IsValid() {
			c.wg.Add(1)
			go c.remotes[r.Node].dialLoop()
		}
	}
	return c, nil
}

// Close ends all connections and returns when every goroutine has ended. Receive
// and Up are not called any more then.
func (c *Courier) Close() {
	c.cancel()
	c.leave()
	c.wg.Wait()
}

// Send queues a message for a voter and returns at once. msg belongs to the
// courier from then on. When the queue is full its oldest message is dropped; a
// message for nobody, or a longer one than maxMessage, is dropped itself.
func (c *Courier) Send(to string, msg []byte) {
	r := c.remotes[to]
	if r == nil || len(msg) > maxMessage {
		c.unsendable.Add(1)
		return
	}
	r.enqueue(msg)
}

// VoterStats are the counters of one voter.
type VoterStats struct {
	Peer        Peer // the incarnation seen last; Boot 0: none yet
	Connected   bool
	Sent        uint64 // messages
	Received    uint64
	Dropped     uint64 // never sent: the queue was full
	LastRefusal string // in words; empty while connected
}

// Stats are the courier's counters.
type Stats struct {
	Voters  []VoterStats      // in the order of Config.Remotes
	Refused map[string]uint64 // connections refused, by transport.Reason
	Closed  map[string]uint64 // connections ended, by transport.Reason
	// Unsendable counts messages for nobody, or longer than maxMessage.
	Unsendable uint64
}

// Stats returns a copy of the counters.
func (c *Courier) Stats() Stats {
	s := Stats{Refused: c.refused.Snapshot(), Closed: c.closed.Snapshot(), Unsendable: c.unsendable.Load()}
	for _, r := range c.cfg.Remotes {
		s.Voters = append(s.Voters, c.remotes[r.Node].stats())
	}
	return s
}

// note counts a refusal and logs it once. r is nil for a stranger.
func (c *Courier) note(r *remote, refusal *transport.Error, addr string) {
	c.refused.Add(refusal.Reason)
	if c.ctx.Err() != nil {
		return
	}
	said, node := &c.said, ""
	if r != nil {
		said, node = &r.said, r.Node
		r.setRefusal(refusal.Error())
	}
	level := slog.LevelDebug
	if said.First(refusal.Gist()) {
		level = slog.LevelWarn
	}
	msg := "refused a voter's connection"
	if refusal.ByPeer {
		msg = "the voter refused the connection"
	}
	c.cfg.Log.Log(context.Background(), level, msg, "voter", node, "remote", addr, "reason", string(refusal.Reason), "error", refusal.Error())
}
