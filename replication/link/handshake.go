package link

import (
	"context"
	"fmt"
	"net"
	"time"

	"lockstep/replication/transport"
	"lockstep/replication/wire"
)

// greet makes a session of a TCP connection that we opened, or refuses it.
func (l *Link) greet(conn *net.TCPConn) (*Session, *transport.Error) {
	_ = conn.SetDeadline(time.Now().Add(l.cfg.HandshakeTimeout))
	// No name of a pair: an older peer serves one only, and does not ask for it.
	c, refusal := transport.Client(l.ctx, conn, l.cfg.Identity, Protocol, "")
	if refusal != nil {
		conn.Close()
		return nil, refusal
	}
	return l.handshake(l.ctx, c, true)
}

// handshake makes a session of a connection or refuses it. It owns c and closes
// it on error. The deadline that c has covers everything until the session
// stands, so a silent peer cannot hold a place.
func (l *Link) handshake(ctx context.Context, c *transport.Conn, dialled bool) (*Session, *transport.Error) {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	s, refusal := l.negotiate(c, dialled)
	if refusal != nil {
		c.Close()
		return nil, refusal
	}
	return s, nil
}

func (l *Link) negotiate(c *transport.Conn, dialled bool) (*Session, *transport.Error) {
	c.Tune(l.cfg.UserTimeout)
	owner, refusal := c.Owner(l.cfg.Identity)
	if refusal != nil {
		return nil, c.Refuse(refusal)
	}
	ours, refusal := sayHello(c, l.cfg.Hello())
	if refusal != nil {
		return nil, refusal
	}
	peer, refusal := hear(c)
	if refusal != nil {
		return nil, refusal
	}
	if refusal := l.vetHello(&ours, &peer, owner); refusal != nil {
		return nil, c.Refuse(refusal)
	}
	version, _ := ours.Common(&peer)
	s := &Session{
		Peer: peer, Version: version, Dialled: dialled,
		conn: c, writeTimeout: l.cfg.WriteTimeout, done: make(chan struct{}),
	}
	return s, l.consent(c, s)
}

// consent is the second round: the node with the larger name agrees, the one
// with the smaller name decides. On success the session is the link's current
// one.
func (l *Link) consent(c *transport.Conn, s *Session) *transport.Error {
	if !l.decides() {
		s.SaidAt = time.Now()
		ours, refusal := sayHello(c, l.cfg.Hello())
		if refusal != nil {
			return refusal
		}
		s.Ours = ours
	}
	again, refusal := hear(c)
	if refusal != nil {
		return refusal
	}
	if again.BootID != s.Peer.BootID {
		return c.Refuse(&transport.Error{Reason: transport.RefusedHandshake, Detail: "the peer's boot id changed within a handshake"})
	}
	s.Peer = again // the newest word on its role
	if refusal := l.establish(s); refusal != nil {
		return c.Refuse(refusal)
	}
	if l.decides() {
		s.SaidAt = time.Now()
		ours, refusal := sayHello(c, l.cfg.Hello())
		if refusal != nil {
			s.end(refusal)
			return refusal
		}
		s.Ours = ours
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		failed := transport.HandshakeError(err)
		s.end(failed)
		return failed
	}
	return nil
}

// decides says whether this node chooses among duplicate sessions.
func (l *Link) decides() bool { return l.cfg.Node < l.cfg.Peer }

// vetHello checks what the peer says of itself against the configuration and
// against its key.
func (l *Link) vetHello(ours, peer *wire.Hello, owner string) *transport.Error {
	if peer.Pair == ours.Pair && (peer.Node != l.cfg.Peer || owner != l.cfg.Peer) {
		return &transport.Error{Reason: transport.RefusedWrongNode, Detail: fmt.Sprintf("%s expects node %q; the peer calls itself %q with the key of %q", ours.Node, l.cfg.Peer, peer.Node, owner)}
	}
	return transport.Vet(name(ours), name(peer), owner)
}

func name(h *wire.Hello) transport.Name {
	return transport.Name{Pair: h.Pair, Node: h.Node, MinVersion: h.MinVersion, MaxVersion: h.MaxVersion}
}

func sayHello(c *transport.Conn, hello wire.Hello) (wire.Hello, *transport.Error) {
	frame, err := wire.AppendHello(nil, &hello)
	if err != nil {
		return hello, transport.HandshakeError(fmt.Errorf("encode hello: %w", err))
	}
	if _, err = c.Write(frame); err != nil {
		return hello, transport.HandshakeError(err)
	}
	return hello, nil
}

// hear reads the peer's Hello or its refusal.
func hear(c *transport.Conn) (wire.Hello, *transport.Error) {
	payload, refusal := c.Hear(wire.TypeHello)
	if refusal != nil {
		return wire.Hello{}, refusal
	}
	hello, err := wire.DecodeHello(payload)
	if err != nil {
		return hello, transport.HandshakeError(err)
	}
	return hello, nil
}
