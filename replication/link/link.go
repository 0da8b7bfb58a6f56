package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"lockstep/replication/identity"
	"lockstep/replication/transport"
	"lockstep/replication/wire"
)

// Protocol is the sync session's ALPN name.
const Protocol = "lockstep"

// Config is what a link needs. Durations and counts left zero get defaults.
type Config struct {
	Node, Pair string
	Listen     netip.AddrPort // this node's member address
	Peer       string
	PeerAddr   netip.AddrPort
	Identity   *identity.Identity
	// Port is where the peer reaches us, shared with other protocols; it must listen
	// on Listen and outlive the link. nil: the link opens one of its own.
	Port *transport.Port
	// Hello says what this node is at the moment of the call. It is called from
	// handshakes, up to HandshakeSlots+1 at a time, and must not block for long.
	// Pair and Node are filled in by the link.
	Hello func() wire.Hello
	Log   *slog.Logger

	HandshakeTimeout time.Duration // from TCP connected to session; default 3s
	HandshakeSlots   int           // accepted connections not yet authenticated, of a port of its own; default 8
	WriteTimeout     time.Duration // Send blocks no longer; default 2s
	UserTimeout      time.Duration // sent bytes unacknowledged for so long end the session; default 3s
	RedialMin        time.Duration // pause after a failed dial, doubling; default 20ms
	RedialMax        time.Duration // default 1s
}

func (c Config) withDefaults() Config {
	setDefault(&c.HandshakeTimeout, 3*time.Second)
	setDefault(&c.HandshakeSlots, 8)
	setDefault(&c.WriteTimeout, 2*time.Second)
	setDefault(&c.UserTimeout, 3*time.Second)
	setDefault(&c.RedialMin, 20*time.Millisecond)
	setDefault(&c.RedialMax, time.Second)
	hello := c.Hello
	node, pair := c.Node, c.Pair
	c.Hello = func() wire.Hello {
		h := hello()
		h.Node, h.Pair = node, pair
		return h
	}
	return c
}

func setDefault[T int | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// errClosed says that the link was closed.
var errClosed = errors.New("link: closed")

// Link finds the peer and keeps at most one session with it.
type Link struct {
	cfg      Config
	port     *transport.Port
	own      bool            // the port is the link's own
	leave    func()          // ends what the port does for the link
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	wg       sync.WaitGroup // every goroutine of the link
	sessions chan *Session  // at most one, the newest not yet accepted

	refused, closed transport.Counters
	said            transport.Once // refusals that were logged since the last session

	mu      sync.Mutex // guards the following; nothing is locked beneath it but Session's once
	current *Session   // the newest, live or ended; nil before the first
	refusal string     // the last refusal, in words; empty while all is well
}

// Start makes the peer welcome on the member address and begins to dial it.
func Start(cfg Config) (*Link, error) {
	cfg = cfg.withDefaults()
	if cfg.Identity.Node != cfg.Node {
		return nil, fmt.Errorf("identity belongs to node %q, this is %q (pair.identity must be the directory that `lockstep keys` made for %s)", cfg.Identity.Node, cfg.Node, cfg.Node)
	}
	if cfg.Identity.Pair != cfg.Pair {
		return nil, fmt.Errorf("identity belongs to pair %q, pair.name is %q", cfg.Identity.Pair, cfg.Pair)
	}
	if !cfg.Identity.Has(cfg.Peer) {
		return nil, fmt.Errorf("identity holds no certificate of node %q (%s)", cfg.Peer, identity.Hint)
	}
	l := &Link{cfg: cfg, port: cfg.Port, sessions: make(chan *Session, 1)}
	var err error
	if l.port == nil {
		l.own = true
		l.port, err = transport.Listen(transport.PortConfig{
			Listen: cfg.Listen, Log: cfg.Log, Pause: cfg.RedialMin,
			HandshakeTimeout: cfg.HandshakeTimeout, HandshakeSlots: cfg.HandshakeSlots,
		})
		if err != nil {
			return nil, fmt.Errorf("%w (pair.members.%s must be an address of this machine)", err, cfg.Node)
		}
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.leave, err = l.port.Handle(transport.Service{
		Protocol: Protocol, Identity: cfg.Identity, Near: []netip.Addr{cfg.PeerAddr.Addr()}, Accept: l.accepted,
	})
	if err != nil {
		l.cancel()
		l.closePort()
		return nil, fmt.Errorf("wait for the peer: %w", err)
	}
	l.wg.Add(1)
	go l.dialLoop()
	return l, nil
}

// Close ends the session, stops listening and dialling, and returns when every
// goroutine of the link has ended.
func (l *Link) Close() {
	l.cancel()
	l.leave()
	l.closePort()
	l.wg.Wait()
	l.mu.Lock()
	current := l.current
	l.mu.Unlock()
	if current != nil {
		current.Close()
	}
}

func (l *Link) closePort() {
	if l.own {
		l.port.Close()
	}
}

// Accept waits for the next session. A session that has ended meanwhile is
// passed over.
func (l *Link) Accept(ctx context.Context) (*Session, error) {
	for {
		select {
		case s := <-l.sessions:
			if s.live() {
				return s, nil
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-l.ctx.Done():
			return nil, errClosed
		}
	}
}

// Stats are the link's counters.
type Stats struct {
	Connected      bool
	Refused        map[string]uint64 // connections refused before they were sessions, by Reason
	Closed         map[string]uint64 // sessions ended, by Reason
	Sent, Received uint64            // bytes of the current session
	LastRefusal    string            // the newest refusal, in words; empty once a session stands
}

// Stats returns a copy of the counters. Connections that the port refused before
// it was known what they are for count here.
func (l *Link) Stats() Stats {
	s := Stats{Refused: l.refused.Snapshot(), Closed: l.closed.Snapshot()}
	for reason, n := range l.port.Refused() {
		s.Refused[reason] += n
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.LastRefusal = l.refusal
	if l.current != nil {
		s.Connected = l.current.live()
		s.Sent, s.Received = l.current.sent.Load(), l.current.received.Load()
	}
	return s
}

// establish makes s the current session, or refuses it because there is one.
func (l *Link) establish(s *Session) *transport.Error {
	s.onEnd = func(e *transport.Error) { l.closed.Add(e.Reason) }
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		return &transport.Error{Reason: transport.RefusedHandshake, Detail: "shutting down"}
	}
	if old := l.current; old != nil && old.live() {
		if l.decides() && old.Peer.BootID == s.Peer.BootID {
			return &transport.Error{Reason: transport.RefusedDuplicate, Detail: "a live session exists"}
		}
		old.end(&transport.Error{Reason: transport.ClosedSuperseded})
	}
	l.current = s
	return nil
}

// deliver hands a session to Accept in place of an older one not yet taken.
// Only the current session is worth it.
func (l *Link) deliver(s *Session) {
	if !l.offer(s) {
		return
	}
	l.said.Forget()
	l.cfg.Log.Info("sync session established", "peer", s.Peer.Node, "dialled", s.Dialled, "version", s.Version)
}

func (l *Link) offer(s *Session) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != s || !s.live() {
		return false
	}
	l.refusal = ""
	select {
	case <-l.sessions:
	default:
	}
	l.sessions <- s // has room: offer is the only sender, under mu
	return true
}

// accepted is told by the port of a connection for us; it is counted and logged
// here whatever comes of it.
func (l *Link) accepted(ctx context.Context, c *transport.Conn) {
	remote := c.RemoteAddr().String()
	s, refusal := l.handshake(ctx, c, false)
	if refusal != nil {
		l.note(refusal, remote)
		return
	}
	l.deliver(s)
}

// dialled runs the handshake of a connection that we opened.
func (l *Link) dialled(conn *net.TCPConn) *Session {
	remote := conn.RemoteAddr().String()
	s, refusal := l.greet(conn)
	if refusal != nil {
		l.note(refusal, remote)
		return nil
	}
	l.deliver(s)
	return s
}

// note counts a refusal and logs it once: both sides try again for ever, and a
// log that repeats itself every second hides everything else.
func (l *Link) note(refusal *transport.Error, remote string) {
	l.refused.Add(refusal.Reason)
	if l.ctx.Err() != nil {
		return
	}
	level := slog.LevelWarn
	if refusal.Reason == transport.RefusedDuplicate {
		level = slog.LevelDebug // both dialled at once: as it should be
	} else if !l.firstTime(refusal, refusal.Error()) {
		level = slog.LevelDebug
	}
	msg := "refused a sync connection"
	if refusal.ByPeer {
		msg = "the peer refused the sync connection"
	}
	l.cfg.Log.Log(context.Background(), level, msg, "peer", l.cfg.Peer, "remote", remote, "reason", string(refusal.Reason), "error", refusal.Error())
}

// firstTime keeps a refusal for the status and tells whether it is news.
func (l *Link) firstTime(refusal *transport.Error, text string) bool {
	l.mu.Lock()
	l.refusal = text
	l.mu.Unlock()
	return l.said.First(refusal.Gist())
}

// dialLoop dials the peer whenever there is no live session.
func (l *Link) dialLoop() {
	defer l.wg.Done()
	pause := l.cfg.RedialMin
	for l.ctx.Err() == nil {
		s := l.live()
		if s == nil {
			s = l.dial()
		}
		if s != nil {
			pause = l.cfg.RedialMin
			select {
			case <-s.ended():
			case <-l.ctx.Done():
			}
			continue
		}
		// Half of it is random, so that two nodes do not dial in step for ever.
		wait := time.NewTimer(pause/2 + rand.N(pause/2+1))
		select {
		case <-wait.C:
		case <-l.ctx.Done():
			wait.Stop()
		}
		pause = min(2*pause, l.cfg.RedialMax)
	}
}

func (l *Link) live() *Session {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != nil && l.current.live() {
		return l.current
	}
	return nil
}

// dial makes one attempt, from our member address so that the peer's firewall
// and its log see the configured one.
func (l *Link) dial() *Session {
	dialer := net.Dialer{
		Timeout:   l.cfg.HandshakeTimeout,
		LocalAddr: &net.TCPAddr{IP: l.cfg.Listen.Addr().AsSlice()},
	}
	conn, err := dialer.DialContext(l.ctx, "tcp", l.cfg.PeerAddr.String())
	if err != nil {
		if l.ctx.Err() == nil && l.firstTime(&transport.Error{Err: err}, plain(err)) {
			l.cfg.Log.Info("peer is not reachable yet", "peer", l.cfg.Peer, "addr", l.cfg.PeerAddr.String(), "error", plain(err))
		}
		return nil
	}
	return l.dialled(conn.(*net.TCPConn))
}

// plain is an error of dialling without the addresses, which its reader knows, and with
// where to look.
func plain(err error) string {
	text := err.Error()
	if op, ok := errors.AsType[*net.OpError](err); ok {
		text = op.Err.Error()
	}
	switch timeout, ok := errors.AsType[net.Error](err); {
	case errors.Is(err, syscall.ECONNREFUSED):
		return text + ": the machine is there, but lockstep does not run on it, or ends as soon as it starts (or a firewall refuses it) " +
			"(its configuration, the modes of its key files): look at its log, and run `lockstep check` there"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), ok && timeout.Timeout():
		return text + ": is the machine on, is the sync network connected, does a firewall let TCP to that port pass?"
	}
	return text
}
