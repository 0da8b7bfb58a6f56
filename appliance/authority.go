package appliance

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"lockstep/appliance/decide"
	"lockstep/internal/loglimit"
	"lockstep/replication"
	"lockstep/replication/identity"
	"lockstep/wrap/agree"
)

// What this appliance is to wrapped servers: it listens at an address of its own, and answers while it is the active.

// sweepPeriod is how often lives of connections that have ended are looked for.
const sweepPeriod = time.Second

// startAuthority begins to answer, if this appliance is to.
func (n *Node) startAuthority(undo *closers) error {
	at, ok := n.cfg.Decides()
	if !ok {
		return nil
	}
	id, err := identity.Load(n.cfg.Authority.Identity)
	if err != nil {
		return err
	}
	if id.Node != n.cfg.Node {
		return fmt.Errorf("authority.identity: %s holds the keys of node %q, and this is %q: `lockstep keys --servers` makes a directory for each", n.cfg.Authority.Identity, id.Node, n.cfg.Node)
	}
	a := n.authority
	ctx, cancel := context.WithCancel(context.Background())
	var joined sync.WaitGroup
	failed := make(chan error, 1)
	ready := make(chan struct{})
	joined.Go(func() {
		err := agree.Serve(ctx, agree.Place{Addresses: []string{at.String()}, Identity: id}, a, sayTo{n.log}, func() { close(ready) })
		failed <- err
		if err != nil && ctx.Err() == nil {
			n.log.Error("wrapped servers are not answered any more: they go on with results of their own", "err", err)
		}
	})
	joined.Go(func() { n.sweepLives(ctx) })
	undo.add("authority", func() error { cancel(); a.Mute(); joined.Wait(); return nil })
	select {
	case <-ready:
		n.log.Info("wrapped servers may ask", "at", at)
		return nil
	case err := <-failed:
		return fmt.Errorf("listen for wrapped servers (authority.members.%s must be an address of this machine): %w", n.cfg.Node, err)
	}
}

// sweepLives ends lives of connections that have ended, until ctx does.
func (n *Node) sweepLives(ctx context.Context) {
	look := time.NewTicker(sweepPeriod)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			if n.engine.Active() { // before, the connections of a takeover are not all there
				n.authority.Sweep(func(id replication.ConnID) bool { return n.relay.Lookup(id) != nil })
			}
		}
	}
}

// sayTo logs what is said of refused servers.
type sayTo struct{ log *slog.Logger }

func (s sayTo) Write(b []byte) (int, error) {
	s.log.Warn("at the address where wrapped servers ask", "what", strings.TrimSpace(string(b)), loglimit.Per("authority"))
	return len(b), nil
}

// asked implements decide.Host.
type asked struct{ n *Node }

func (a asked) MaySpeak() bool { return a.n.engine.Active() }

func (a asked) Connection(client, server netip.AddrPort) (replication.ConnID, bool) {
	return a.n.relay.Served(client, server)
}

func (a asked) Service(host netip.Addr) (string, int, bool) {
	s := a.n.cfg.WrappedService(host)
	if s == nil {
		return "", 0, false
	}
	return s.Name, len(s.Hosts(host.Is4())), true
}

func (a asked) Random(b []byte) { _, _ = rand.Read(b) } // it never fails (crypto/rand)

var _ decide.Host = asked{}

// ledger implements decide.Journal.
type ledger struct{ j *journal }

func (l ledger) BeginLife(id replication.LifeID, name string) error {
	return l.j.shell.BeginLife(l.j.now(), id, name)
}

func (l ledger) Decide(id replication.LifeID, key string, proposal []byte) (replication.Decision, error) {
	return l.j.shell.Decide(l.j.now(), id, key, proposal)
}

func (l ledger) Forget(id replication.LifeID, number uint64) error {
	return l.j.shell.Forget(l.j.now(), id, number)
}

func (l ledger) EndLife(id replication.LifeID) error { return l.j.shell.EndLife(l.j.now(), id) }

func (l ledger) Lives(f func(id replication.LifeID, name string)) {
	l.j.shell.Look(func(c *replication.Core) { c.Lives(f) })
}

func (l ledger) Find(id replication.LifeID, key string) (value []byte, ok bool) {
	l.j.shell.Look(func(c *replication.Core) { value, ok = c.DecidedHere(id, key) })
	return value, ok
}
