package arbiter

import (
	"fmt"
)

// claiming is what this voter wants of State, and what it may do by it.
type claiming struct {
	lease Nanos // see Core.lease; 0 when an epoch begins

	able      bool // our store could continue the active's connections
	ableEpoch uint64

	wish     wish
	proposed logEnd // our newest proposal, in the term in which it was made
	waiting  Nanos  // since when a leader that holds nothing waits; 0: it does not
}

// wish is what the active wants its standby to be.
type wish struct {
	kind   byte // cmdAdd, cmdRemove, or 0: nothing
	member Member
	said   bool // proposed at least once
}

// SetAble tells whether our store could continue the connections of the active of
// that epoch.
func (c *Core) SetAble(now Nanos, epoch uint64, able bool) {
	c.advance(now)
	c.claim.able, c.claim.ableEpoch = able, epoch
	c.settle()
}

// AddStandby: the active's standby m has confirmed that it holds everything. State
// shows when it is committed; until then the proposal is repeated.
func (c *Core) AddStandby(now Nanos, m Member) {
	c.want(now, wish{kind: cmdAdd, member: m})
}

// RemoveStandby: the active wants to go on alone. Ready.Solo shows when it may.
func (c *Core) RemoveStandby(now Nanos) {
	c.want(now, wish{kind: cmdRemove})
}

func (c *Core) want(now Nanos, w wish) {
	c.advance(now)
	if c.state.Active == c.self {
		c.claim.wish = w
	}
	c.settle()
}

// Yield hands over to the standby in sync, voter name to. The caller is mute and has
// told its standby everything: from this call on Lease is 0. If the standby does not
// claim, this voter is elected again some FailureTimeouts later, and Lease goes on.
// An error means that nothing happened.
func (c *Core) Yield(now Nanos, to string) error {
	c.advance(now)
	switch {
	case c.state.Active != c.self || !c.leads() || !c.lead.own || c.lead.handed != 0:
		return fmt.Errorf("yield to %q: %w", to, ErrNotActive)
	case c.state.Standby.None() || c.state.Standby.Node != to || c.gone(c.state.Standby):
		return fmt.Errorf("yield to %q, standby in sync is %v: %w", to, c.state.Standby, ErrStandby)
	}
	c.claim.wish = wish{}
	c.handOver(c.voter(to))
	c.settle()
	return nil
}

// enter makes s the committed state.
func (c *Core) enter(s State) {
	if s.Epoch != c.state.Epoch {
		c.claim.lease, c.claim.wish, c.claim.waiting = 0, wish{}, 0
	}
	c.state = s
}

// solo: see Ready.Solo.
func (c *Core) solo() bool {
	if c.state.Active != c.self || !c.state.Standby.None() || c.claim.wish.kind != 0 {
		return false
	}
	for _, e := range c.uncommitted() {
		if cmd, ok := decodeCommand(e.GetData()); ok && cmd.kind == cmdAdd {
			return false
		}
	}
	return true
}

// decide is the leader's: propose what must be proposed. It reports whether it did
// something that raft has to work on.
func (c *Core) decide() bool {
	if !c.leads() || c.lead.handed != 0 || c.pending() {
		return false
	}
	s := c.latent()
	if c.witness {
		c.passOn(s)
		return false
	}
	if s.Active == c.self {
		c.claim.waiting = 0
		return c.lead.own && c.grant()
	}
	if s.Standby == c.self && c.claim.able && c.claim.ableEpoch == s.Epoch {
		return c.propose(command{kind: cmdClaim, base: s.Epoch, whole: true, member: c.self})
	}
	for _, m := range []Member{s.Active, s.Standby} {
		if m != c.self && !c.gone(m) && (!c.lead.own || !c.patient(m)) {
			return false
		}
	}
	return c.propose(command{kind: cmdClaim, base: s.Epoch, member: c.self})
}

// passOn ends the witness's leadership: to who may hold connections, else to whoever
// is heard. Raft brings its log up to ours first.
func (c *Core) passOn(s State) {
	if !c.lead.own {
		return
	}
	for _, m := range []Member{s.Active, s.Standby, {c.names[0], c.peers[0].boot}, {c.names[1], c.peers[1].boot}} {
		if c.heardOf(m) {
			c.handOver(c.voter(m.Node))
			return
		}
	}
}

// latent returns what State will be when all that is in our log is committed. For a
// new leader that is certain to come, and before anything that it proposes; so its
// claim need not wait a round trip for it. The claim says for which epoch it was
// made, and is without effect in another.
func (c *Core) latent() State {
	s := c.state
	for _, e := range c.uncommitted() {
		if cmd, ok := decodeCommand(e.GetData()); ok {
			s, _ = s.apply(cmd, e.GetTerm())
		}
	}
	return s
}

// patient deals with m, who may hold connections that we do not: it gets the
// leadership when it is heard. It reports true when it has been waited for in vain.
func (c *Core) patient(m Member) bool {
	if c.heardOf(m) {
		c.claim.waiting = 0
		c.handOver(c.voter(m.Node))
		return false
	}
	if c.claim.waiting == 0 {
		c.claim.waiting = max(c.now, 1)
	}
	return c.now-c.claim.waiting >= c.patience
}

// grant proposes what the active wishes, and forgets the wish when it has come true.
func (c *Core) grant() bool {
	w := &c.claim.wish
	switch {
	case w.kind == cmdAdd && (c.state.Standby == w.member || w.member.Node == c.self.Node || c.voter(w.member.Node) == 0):
		*w = wish{}
	case w.kind == cmdRemove && w.said && c.state.Standby.None():
		*w = wish{}
	}
	if w.kind == 0 {
		return false
	}
	if !c.propose(command{kind: w.kind, base: c.state.Epoch, member: w.member}) {
		return false
	}
	w.said = true
	return true
}

// pending reports whether our last proposal is on its way in this term.
func (c *Core) pending() bool {
	return c.claim.proposed.term == c.lead.term && c.index < c.claim.proposed.index
}

func (c *Core) propose(cmd command) bool {
	if c.node.Propose(appendCommand(nil, cmd)) != nil {
		return false
	}
	c.pump()
	c.claim.proposed = logEnd{c.lead.term, c.tail.index}
	return true
}
