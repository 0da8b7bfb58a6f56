package courier

import (
	"context"
	"fmt"
	"net"
	"time"

	"lockstep/replication/transport"
	"lockstep/replication/wire"
)

// accepted is told by the port of a connection for us.
func (c *Courier) accepted(ctx context.Context, conn *transport.Conn) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	conn.Tune(c.cfg.UserTimeout)
	remote := conn.RemoteAddr().String()
	r, s, refusal := c.admit(conn)
	if refusal != nil {
		conn.Close()
		c.note(r, refusal, remote)
		return
	}
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		r.run(s)
	}()
}

// admit is the accepting side's handshake. r is known once the key is.
func (c *Courier) admit(conn *transport.Conn) (r *remote, s *session, refusal *transport.Error) {
	owner, refusal := conn.Owner(c.cfg.Identity)
	if refusal != nil {
		return nil, nil, conn.Refuse(refusal)
	}
	r = c.remotes[owner]
	if r == nil || r.Addr.IsValid() {
		return r, nil, conn.Refuse(&transport.Error{Reason: transport.RefusedWrongNode,
			Detail: fmt.Sprintf("%s does not expect to be dialled by node %q", c.cfg.Self.Node, owner)})
	}
	peer, refusal := c.hear(conn, owner)
	if refusal != nil {
		return r, nil, refusal
	}
	if refusal := c.say(conn); refusal != nil {
		return r, nil, refusal
	}
	again, refusal := c.hear(conn, owner)
	if refusal != nil {
		return r, nil, refusal
	}
	if again.Boot != peer.Boot {
		return r, nil, conn.Refuse(&transport.Error{Reason: transport.RefusedHandshake, Detail: "the voter's boot changed within a handshake"})
	}
	s, refusal = newSession(conn, &peer)
	return r, s, refusal
}

// greet opens a connection and is the dialling side's handshake. refusal is nil
// with an error that is none: the voter is not there.
func (r *remote) greet() (s *session, refusal *transport.Error, err error) {
	cfg := &r.c.cfg
	ctx, cancel := context.WithTimeout(r.c.ctx, cfg.HandshakeTimeout)
	defer cancel()
	var dialer net.Dialer
	if cfg.Local.IsValid() {
		dialer.LocalAddr = &net.TCPAddr{IP: cfg.Local.AsSlice()}
	}
	tcp, err := dialer.DialContext(ctx, "tcp", r.Addr.String())
	if err != nil {
		return nil, nil, err
	}
	deadline, _ := ctx.Deadline()
	_ = tcp.SetDeadline(deadline)
	stop := context.AfterFunc(r.c.ctx, func() { tcp.Close() })
	defer stop()
	if s, refusal = r.introduce(ctx, tcp.(*net.TCPConn)); refusal != nil {
		tcp.Close()
	}
	return s, refusal, nil
}

func (r *remote) introduce(ctx context.Context, tcp *net.TCPConn) (*session, *transport.Error) {
	c := r.c
	conn, refusal := transport.Client(ctx, tcp, c.cfg.Identity, protocol, c.cfg.Identity.Pair)
	if refusal != nil {
		return nil, refusal
	}
	conn.Tune(c.cfg.UserTimeout)
	owner, refusal := conn.Owner(c.cfg.Identity)
	if refusal != nil {
		return nil, conn.RefuseKey(refusal)
	}
	if owner != r.Node {
		return nil, conn.Refuse(&transport.Error{Reason: transport.RefusedWrongNode,
			Detail: fmt.Sprintf("%s expects node %q at %v and finds the key of %q", c.cfg.Self.Node, r.Node, r.Addr, owner)})
	}
	if refusal := c.say(conn); refusal != nil {
		return nil, refusal
	}
	peer, refusal := c.hear(conn, owner)
	if refusal != nil {
		return nil, refusal
	}
	if refusal := c.say(conn); refusal != nil { // we agree
		return nil, refusal
	}
	return newSession(conn, &peer)
}

// say sends our VoterHello.
func (c *Courier) say(conn *transport.Conn) *transport.Error {
	ours := c.hello()
	frame, err := wire.AppendVoterHello(nil, &ours)
	if err != nil {
		return transport.HandshakeError(fmt.Errorf("encode hello: %w", err))
	}
	if _, err := conn.Write(frame); err != nil {
		return transport.HandshakeError(err)
	}
	return nil
}

// hear reads the peer's VoterHello and vets it; the peer is told of a refusal.
func (c *Courier) hear(conn *transport.Conn, owner string) (wire.VoterHello, *transport.Error) {
	payload, refusal := conn.Hear(wire.TypeVoterHello)
	if refusal != nil {
		return wire.VoterHello{}, refusal
	}
	peer, err := wire.DecodeVoterHello(payload)
	if err != nil {
		return peer, transport.HandshakeError(err)
	}
	ours := c.hello()
	if refusal := transport.Vet(name(&ours), name(&peer), owner); refusal != nil {
		return peer, conn.Refuse(refusal)
	}
	if peer.FailureTimeout != ours.FailureTimeout {
		return peer, conn.Refuse(&transport.Error{Reason: transport.RefusedTimeouts,
			Detail: fmt.Sprintf("failure_timeout is %v on %s and %v on %s: it must be the same on all three, or a lease proves nothing",
				c.cfg.FailureTimeout, ours.Node, time.Duration(peer.FailureTimeout), peer.Node)})
	}
	return peer, nil
}

func (c *Courier) hello() wire.VoterHello {
	return wire.VoterHello{
		MinVersion: wire.VoterMinVersion, MaxVersion: wire.VoterVersion,
		Pair: c.cfg.Identity.Pair, Node: c.cfg.Self.Node, Boot: c.cfg.Self.Boot,
		FailureTimeout: uint64(c.cfg.FailureTimeout),
	}
}

func name(h *wire.VoterHello) transport.Name {
	return transport.Name{Pair: h.Pair, Node: h.Node, MinVersion: h.MinVersion, MaxVersion: h.MaxVersion}
}
