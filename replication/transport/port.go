package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"lockstep/internal/loglimit"
	"lockstep/replication/identity"
)

// PortConfig is what a Port needs. What is left zero gets a default.
type PortConfig struct {
	Listen netip.AddrPort
	Log    *slog.Logger

	HandshakeTimeout time.Duration // from TCP connected to handed over and established; default 3s
	HandshakeSlots   int           // accepted connections not yet established; default 8
	Pause            time.Duration // after a failed accept; default 20ms
}

// Service is one protocol of one pair on a Port.
type Service struct {
	Protocol string // its ALPN name
	Identity *identity.Identity
	Near     []netip.Addr // where its peers dial from: connections from elsewhere are given up first
	// Accept gets each connection that asks for this protocol and this pair, and
	// owns it. It is called on a goroutine of its own, holds a slot until it
	// returns, and ends when ctx does. The connection has a deadline, which Accept
	// lifts when the session stands.
	Accept func(ctx context.Context, c *Conn)
}

// Port is the one TCP listener of a node's member address. Services come and go
// while it listens.
type Port struct {
	cfg      PortConfig
	listener *net.TCPListener
	nobody   *identity.Identity // answers who asks for a pair that is not served
	ctx      context.Context    // ends with Close
	cancel   context.CancelFunc
	wg       sync.WaitGroup // every goroutine of the port

	refused  Counters
	mu       sync.Mutex // guards the following; a leaf
	services []*service
	pending  map[*net.TCPConn]bool // accepted, not yet established; the value: from a peer's address
	arrived  []*net.TCPConn        // pending in order of arrival
}

// service is a registered Service.
type service struct {
	Service
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // calls of Accept; Add only under Port.mu while registered
}

// Listen opens a port. Until Handle is called it refuses everybody.
func Listen(cfg PortConfig) (*Port, error) {
	if cfg.HandshakeTimeout <= 0 {
		cfg.HandshakeTimeout = 3 * time.Second
	}
	if cfg.HandshakeSlots <= 0 {
		cfg.HandshakeSlots = 8
	}
	if cfg.Pause <= 0 {
		cfg.Pause = 20 * time.Millisecond
	}
	nobody, err := identity.Nobody()
	if err != nil {
		return nil, err
	}
	listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(cfg.Listen))
	if err != nil {
		return nil, fmt.Errorf("listen for other nodes: %w", err)
	}
	p := &Port{cfg: cfg, listener: listener, nobody: nobody, pending: map[*net.TCPConn]bool{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.wg.Add(1)
	go p.acceptLoop()
	return p, nil
}

// Addr is the address that the port listens on.
func (p *Port) Addr() netip.AddrPort { return p.listener.Addr().(*net.TCPAddr).AddrPort() }

// Refused counts, by Reason, connections that came to no service.
func (p *Port) Refused() map[string]uint64 { return p.refused.Snapshot() }

// Pending is how many connections have not been established yet.
func (p *Port) Pending() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.arrived)
}

// Close stops listening, gives up unfinished handshakes and returns when every
// goroutine of the port has ended. Established connections are not the port's.
func (p *Port) Close() {
	p.cancel()
	p.listener.Close()
	p.wg.Wait()
}

// Handle begins to serve s; a pair and protocol can be served once. The function
// that it returns ends that, and returns when no call of Accept runs any more.
func (p *Port) Handle(s Service) (remove func(), err error) {
	added := &service{Service: s}
	added.ctx, added.cancel = context.WithCancel(p.ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, other := range p.services {
		if other.Identity.Pair == s.Identity.Pair && other.Protocol == s.Protocol {
			added.cancel()
			return nil, fmt.Errorf("pair %q is served already (each pair needs an identity of its own)", s.Identity.Pair)
		}
	}
	p.services = append(p.services, added)
	return func() {
		p.mu.Lock()
		if i := slices.Index(p.services, added); i >= 0 {
			p.services = slices.Delete(p.services, i, i+1)
		}
		p.mu.Unlock()
		added.cancel()
		added.wg.Wait()
	}, nil
}

// acceptLoop accepts connections and runs each handshake on a goroutine of its
// own, HandshakeSlots at a time.
func (p *Port) acceptLoop() {
	defer p.wg.Done()
	for {
		conn, err := p.listener.AcceptTCP()
		if p.ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return
		}
		if err != nil {
			// Out of descriptors, or reset before it was accepted: the listener
			// itself stays usable. A pause keeps the first from spinning.
			p.cfg.Log.Debug("accept a connection of another node", "error", err.Error())
			timer := time.NewTimer(p.cfg.Pause)
			select {
			case <-timer.C:
			case <-p.ctx.Done():
				timer.Stop()
			}
			continue
		}
		p.admit(conn)
		p.wg.Add(1)
		go func() {
			defer p.wg.Done()
			defer p.leave(conn)
			p.receive(conn)
		}()
	}
}

// receive does the TLS handshake and hands the connection to its service.
func (p *Port) receive(conn *net.TCPConn) {
	_ = conn.SetDeadline(time.Now().Add(p.cfg.HandshakeTimeout))
	stop := context.AfterFunc(p.ctx, func() { conn.Close() })
	c, refusal := p.secure(conn)
	if refusal != nil {
		stop()
		conn.Close()
		p.note(refusal, conn.RemoteAddr().String())
		return
	}
	s, refusal := p.take(c)
	if refusal != nil {
		refusal = c.Refuse(refusal)
		stop()
		conn.Close()
		p.note(refusal, conn.RemoteAddr().String())
		return
	}
	defer s.wg.Done()
	stop() // the service's context takes over
	s.Accept(s.ctx, c)
}

func (p *Port) secure(conn *net.TCPConn) (*Conn, *Error) {
	raw := newCorkConn(conn)
	c := &Conn{Conn: tls.Server(raw, &tls.Config{GetConfigForClient: p.choose}), raw: raw}
	if err := c.Handshake(); err != nil {
		refusal := HandshakeError(err)
		if strings.Contains(err.Error(), "unsupported application protocols") {
			refusal.Reason = RefusedVersion // the other side calls it so too
		}
		return nil, refusal
	}
	return c, nil
}

// choose presents the identity of the pair that the client named. A client that
// names none of ours gets to hear why, which takes a handshake with somebody.
func (p *Port) choose(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var id *identity.Identity
	var protocols []string
	for _, s := range p.meant(hello.ServerName) {
		id, protocols = s.Identity, append(protocols, s.Protocol)
	}
	if id == nil {
		return p.nobody.TLS(hello.SupportedProtos...), nil
	}
	return id.TLS(protocols...), nil
}

// meant returns the services of the pair called name, or of the only pair if the
// name is empty. Caller holds mu.
func (p *Port) meant(name string) []*service {
	if name == "" && len(p.services) > 0 {
		name = p.services[0].Identity.Pair
		for _, s := range p.services {
			if s.Identity.Pair != name {
				return nil
			}
		}
	}
	var all []*service
	for _, s := range p.services {
		if s.Identity.Pair == name {
			all = append(all, s)
		}
	}
	return all
}

// take finds the service that c is for and counts it in.
func (p *Port) take(c *Conn) (*service, *Error) {
	state := c.ConnectionState()
	p.mu.Lock()
	defer p.mu.Unlock()
	of := p.meant(state.ServerName)
	for _, s := range of {
		if s.Protocol == state.NegotiatedProtocol {
			s.wg.Add(1)
			return s, nil
		}
	}
	if len(of) > 0 {
		return nil, &Error{Reason: RefusedHandshake, Detail: fmt.Sprintf("nobody here speaks protocol %q", state.NegotiatedProtocol)}
	}
	if state.ServerName == "" {
		return nil, &Error{Reason: RefusedWrongPair, Detail: "the connection does not say which pair it is for"}
	}
	return nil, &Error{Reason: RefusedWrongPair, Detail: fmt.Sprintf("pair %q is not served here", clip(state.ServerName))}
}

// note counts a refusal and logs it, once per source and minute (internal/loglimit).
func (p *Port) note(refusal *Error, remote string) {
	p.refused.Add(refusal.Reason)
	if p.ctx.Err() != nil {
		return
	}
	level := slog.LevelWarn
	if errors.Is(refusal.Err, io.EOF) { // only looked whether somebody listens
		level = slog.LevelDebug
	}
	host, _, _ := net.SplitHostPort(remote)
	p.cfg.Log.Log(context.Background(), level, "refused a connection", "remote", remote, "reason", string(refusal.Reason),
		"error", clip(refusal.Error()), loglimit.Per(host))
}

// admit takes a slot for conn. When all are taken the oldest connection is
// closed in its favour, those from strangers' addresses first: whoever
// connects and says nothing must not keep the peer out.
func (p *Port) admit(conn *net.TCPConn) {
	remote := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	p.mu.Lock()
	var evicted *net.TCPConn
	if len(p.arrived) >= p.cfg.HandshakeSlots {
		i := slices.IndexFunc(p.arrived, func(c *net.TCPConn) bool { return !p.pending[c] })
		evicted = p.arrived[max(i, 0)]
		p.forget(evicted)
	}
	p.pending[conn] = slices.ContainsFunc(p.services, func(s *service) bool { return slices.Contains(s.Near, remote) })
	p.arrived = append(p.arrived, conn)
	p.mu.Unlock()
	if evicted != nil {
		p.refused.Add(RefusedTooMany)
		evicted.Close() // its handshake fails and its goroutine ends
	}
}

func (p *Port) leave(conn *net.TCPConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(conn)
}

// forget frees conn's slot. Caller holds mu.
func (p *Port) forget(conn *net.TCPConn) {
	delete(p.pending, conn)
	if i := slices.Index(p.arrived, conn); i >= 0 {
		p.arrived = slices.Delete(p.arrived, i, i+1)
	}
}

// clip keeps a stranger's words from filling the log.
func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "..."
	}
	return s
}
