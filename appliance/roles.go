package appliance

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"lockstep/appliance/relay"
	"lockstep/internal/loglimit"
	"lockstep/replication"
	"lockstep/replication/link"
	"lockstep/replication/wire"
	"lockstep/tun"
)

// shiftMargin covers the error of the estimate of the former active's clock, in
// milliseconds, beside the round trip: TSval must not go back (invariant 7).
const shiftMargin = 20

// sessionEnd tells the role loop that a session's reader has returned.
type sessionEnd struct {
	sess *link.Session
	err  error
}

func (n *Node) acceptSessions(ctx context.Context, to chan<- *link.Session) {
	defer n.wg.Done()
	for {
		s, err := n.link.Accept(ctx)
		if err != nil {
			return
		}
		select {
		case to <- s:
		case <-ctx.Done():
			s.Close()
			return
		}
	}
}

// hello says what this node is, for the link's handshake.
func (n *Node) hello() wire.Hello {
	role, inSync, epoch := n.journal.said()
	if role != replication.RoleStandby && n.handing.Load() {
		role, inSync = replication.RoleNone, true // see roles.Rules.Handed
	}
	h := wire.Hello{
		MinVersion: wire.MinVersion, MaxVersion: wire.Version,
		Role: wire.RoleState(role), InSync: inSync, Epoch: epoch, BootID: n.bootID,
	}
	if role == replication.RoleActive {
		open, _, _ := n.relay.Counts()
		h.Holds = uint64(open)
	}
	return h
}

// closeSession closes the session, if there is one, and leaves the core's gates as
// they are.
func (n *Node) closeSession() bool {
	if n.sess == nil {
		return false
	}
	n.journal.shell.Detach()
	n.sess.Close()
	n.sess = nil
	return true
}

// beginSession starts replication over s with the role and epoch that we have.
func (n *Node) beginSession(ctx context.Context, s *link.Session, ends chan<- sessionEnd) bool {
	if secret, err := s.Secret("syn-cookies"); err != nil {
		n.log.Warn("a standby will not know this active's SYN cookies", "err", err)
	} else {
		n.engine.SetCookieSecret(secret)
	}
	n.openTunnel(s)
	if err := n.journal.shell.Begin(n.journal.now(), s.Version, s); err != nil {
		n.log.Error("begin session with the peer", "err", err)
		s.Close()
		return false
	}
	n.sess = s
	n.wg.Add(1)
	go func() {
		defer n.wg.Done()
		err := s.Serve(n.journal.step)
		select {
		case ends <- sessionEnd{s, err}:
		case <-ctx.Done():
		}
	}()
	n.log.Info("session with the peer", "peer", s.Peer.Node, "role", n.getRole().String(), "epoch", n.journal.epoch())
	return true
}

// becomeActive starts without connections.
func (n *Node) becomeActive(epoch uint64, why string) {
	if err := n.journal.setRole(replication.RoleActive, epoch); err != nil {
		n.log.Error("become active", "err", err)
		return
	}
	n.relay.SetEpoch(epoch)
	n.speak(epoch)
	n.setRole(replication.RoleActive)
	n.announce()
	n.log.Info("active", "epoch", epoch, "why", why)
}

func (n *Node) becomeStandby(epoch uint64) {
	if err := n.journal.setRole(replication.RoleStandby, epoch); err != nil {
		n.log.Error("become standby", "err", err)
		return
	}
	n.setRole(replication.RoleStandby)
	n.engine.Hold(true)
	n.log.Info("standby", "epoch", epoch)
}

// stepDown mutes a deposed active before anything else (invariant 4) and forgets
// its connections: somebody else continues them.
func (n *Node) stepDown(why string) {
	n.engine.SetActive(false)
	n.engine.Hold(false)
	n.withdraw()
	n.resting = nil
	n.authority.Mute()
	n.relay.Reset()
	if err := n.journal.setRole(replication.RoleNone, n.journal.epoch()); err != nil {
		n.log.Error("step down", "err", err)
	}
	n.setRole(replication.RoleNone)
	n.log.Warn("stepped down", "why", why)
}

// takeover continues everything the standby holds. State first, addresses second:
// before the first announcement every connection is known and can answer, though
// most endpoints are built later, or when their peer speaks.
func (n *Node) takeover(epoch uint64, known time.Time, why string) error {
	first, rest, shift, err := n.journal.shell.Takeover(epoch, n.journal.millis(), shiftMargin)
	if err != nil {
		return err
	}
	n.relay.SetEpoch(epoch)
	conns, err := n.relay.Restore(first, shift)
	t := &takeoverReport{At: known, Why: why, Connections: len(conns) + rest.Len(), Lost: n.notContinued(err)}
	n.relay.Rest(rest)
	n.speak(epoch)
	n.succeed()
	n.setRole(replication.RoleActive)
	n.announce()
	t.Answering = time.Since(known)
	n.log.Info("took over", "epoch", epoch, "why", why, "connections", t.Connections, "lost", t.Lost, "answering_after", t.Answering)
	var parts atomic.Int32
	parts.Store(2)
	done := func() {
		if parts.Add(-1) == 0 {
			t.Rebuilt = time.Since(known)
			n.noteTakeover(*t)
			n.log.Info("all legs rebuilt", "connections", t.Connections, "took", t.Rebuilt)
		}
	}
	n.relay.Rebuild(conns, done)
	n.resting = &restOf{report: t, done: done}
	n.restoreSome()
	return nil
}

// notContinued logs what could not be continued and why, and returns how many connections these are.
func (n *Node) notContinued(err error) (lost int) {
	if e := (*relay.LostError)(nil); errors.As(err, &e) {
		lost = e.Lost()
		n.log.Error("some connections cannot be continued", "lost_by_service", e.ByService, "err", err)
	}
	return lost
}

// restOf is a takeover whose connections are not all made yet.
type restOf struct {
	report *takeoverReport
	done   func()
}

// restEach is how many connections of a takeover are made in one turn of the role loop: about 5 ms.
const restEach = 1000

// restoreSome makes some of those connections.
func (n *Node) restoreSome() {
	left, err := n.relay.RestoreSome(restEach)
	if left > 0 {
		return
	}
	lost := n.notContinued(err)
	n.resting.report.Connections -= lost
	n.resting.report.Lost += lost
	n.resting.done()
	n.resting = nil
}

// rests is ready while there are such connections.
func (n *Node) rests() <-chan struct{} {
	if n.resting == nil {
		return nil
	}
	return always
}

// always is ready.
var always = func() <-chan struct{} { c := make(chan struct{}); close(c); return c }()

// speak lets the engine speak: it serves the connections of that epoch. With a
// witness it does so while the lease for the same epoch lasts.
func (n *Node) speak(epoch uint64) {
	if n.lease != nil {
		n.lease.serve(epoch)
	}
	n.engine.SetActive(true)
}

func (n *Node) announce() {
	n.front.Activate()
	n.back.Activate()
}

func (n *Node) withdraw() {
	n.front.Deactivate()
	n.back.Deactivate()
}

// claimed logs that somebody else announces one of our addresses: once a minute for each
// of a few, since anybody on the network can send such frames.
func (n *Node) claimed(c tun.Conflict) {
	n.log.Warn("somebody else claims an address of ours; if it is not the peer, find the host and mend it", "address", c.Addr,
		"mac", c.MAC.String(), "interface", c.Interface, loglimit.Per(c.MAC.String()))
}

// defend announces again where somebody else has, if we still hold the addresses:
// otherwise the neighbours would go on sending to the wrong host for many seconds.
func (n *Node) defend(c tun.Conflict) {
	if slices.Contains(n.gateways(), c.Addr) {
		n.back.Defend()
	} else {
		n.front.Defend()
	}
}

// guard is all that an appliance without a peer has to do until it is told to stop.
func (n *Node) guard(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-n.front.Conflicts():
			n.claimed(c)
			n.defend(c)
		case c := <-n.back.Conflicts():
			n.claimed(c)
			n.defend(c)
		}
	}
}

// endLimit bounds how long an active that is stopped goes on resetting connections.
const endLimit = 2 * time.Second

// endAlone resets the connections of an active that is stopped and that nobody is going to
// continue: both ends learn it now, not by their own time-outs. It must not be mute yet.
func (n *Node) endAlone() {
	if n.getRole() != replication.RoleActive || n.journal.replaceable() {
		return
	}
	if lost := n.relay.End(endLimit); lost > 0 {
		n.log.Warn("stopped without a standby that could continue the connections: both ends of each were reset", "connections", lost)
	}
}

func (n *Node) getRole() replication.Role { return replication.Role(n.role.Load()) }

func (n *Node) setRole(r replication.Role) {
	was := replication.Role(n.role.Swap(uint32(r)))
	if was == replication.RoleActive && r != was || was == replication.RoleStandby && r == replication.RoleActive {
		n.journal.shell.TookOver(n.journal.now())
	}
	n.probeServers(r == replication.RoleActive)
	n.since.Store(time.Now().UnixNano())
}
