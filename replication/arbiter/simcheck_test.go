package arbiter

import (
	"bytes"
	"fmt"
)

// checker is the omniscient observer: it knows the true time, looks into every log,
// and remembers all that was ever committed.
type checker struct {
	w     *world
	log   []logged // committed entries, from index 1
	state State
	stale map[Member]bool // the active has gone on without it
}

type logged struct {
	term uint64
	data []byte
}

func (k *checker) init(w *world) { k.w, k.stale = w, map[Member]bool{} }

// all runs after each event.
func (k *checker) all() {
	speakers := 0
	for _, n := range k.w.nodes {
		if n.speaks() {
			speakers++
		}
	}
	if speakers > 1 {
		k.w.failf("two may speak: %v until %d, %v until %d", k.w.nodes[0].self, k.w.nodes[0].lease, k.w.nodes[1].self, k.w.nodes[1].lease)
	}
	for _, n := range k.w.nodes {
		if n.alive {
			k.committed(n)
		}
	}
}

// committed compares what n has applied with all others, and follows the state.
func (k *checker) committed(n *simNode) {
	first, _ := n.core.disk.FirstIndex()
	have := uint64(len(k.log))
	if n.core.index > have && first > have+1 {
		k.w.failf("the observer has missed entry %d of %s", have+1, n.name)
		return
	}
	if n.core.index <= have {
		// What it holds must be what everybody holds: look at the newest.
		if i := n.core.index; i >= first && i > 0 {
			if term, err := n.core.disk.Term(i); err != nil || term != k.log[i-1].term {
				k.w.failf("%s has committed entry %d in term %d, others in %d", n.name, i, term, k.log[i-1].term)
			}
		}
		return
	}
	ents, err := n.core.disk.Entries(have+1, n.core.index+1, 1<<62)
	if err != nil {
		k.w.failf("entries of %s: %v", n.name, err)
		return
	}
	for _, e := range ents {
		k.log = append(k.log, logged{e.GetTerm(), bytes.Clone(e.GetData())})
		if cmd, ok := decodeCommand(e.GetData()); ok {
			k.command(cmd, e.GetTerm())
		}
	}
}

// command judges a committed command by rules of its own.
func (k *checker) command(cmd command, term uint64) {
	s := k.state
	k.state, _ = s.apply(cmd, term)
	if k.state == s {
		return
	}
	switch cmd.kind {
	case cmdClaim:
		if k.state.Epoch <= s.Epoch || k.state.Epoch != term {
			k.w.failf("epoch goes from %d to %d in term %d", s.Epoch, k.state.Epoch, term)
		}
		if cmd.whole {
			k.w.seen.ClaimWhole++
			if cmd.member != s.Standby {
				k.w.failf("%v claims whole, the standby was %v", cmd.member, s.Standby)
			}
			if k.stale[cmd.member] {
				k.w.failf("%v claims whole after the active went on without it", cmd.member)
			}
			if m := k.w.nodes[k.id(s.Active)]; m.yielded == s.Epoch {
				k.w.seen.YieldDone++
			}
			break
		}
		k.w.seen.ClaimEmpty++
		if n := k.w.nodes[k.id(s.Active)]; !s.Active.None() && n.alive && n.self == s.Active && s.Active != cmd.member {
			k.w.seen.ClaimImpatient++
		}
	case cmdAdd:
		k.w.seen.Added++
	case cmdRemove:
		k.w.seen.Removed++
	}
}

func (k *checker) id(m Member) int {
	if m.Node == "b" {
		return 1
	}
	return 0
}

// claimed compares what a shell is told with what was committed.
func (k *checker) claimed(n *simNode, c *Claim) {
	k.committed(n)
	for _, e := range k.log {
		cmd, ok := decodeCommand(e.data)
		if ok && cmd.kind == cmdClaim && e.term == c.Epoch {
			if cmd.member != n.self || cmd.whole != c.Whole {
				k.w.failf("%v is told of claim %+v, committed is %+v", n.self, c, cmd)
			}
			return
		}
	}
	k.w.failf("%v is told of claim %+v, which was not committed", n.self, c)
}

// alone: n opens its gates now, so whoever was its standby holds too little, unless it
// has been copied anew since.
func (k *checker) alone(n *simNode) {
	k.committed(n)
	if k.state.Active != n.self {
		return // it is deposed and mute, and does not know yet
	}
	if !k.state.Standby.None() {
		k.w.failf("%v goes on alone while %v is committed as its standby", n.self, k.state.Standby)
	}
	if o := n.other(); n.speaks() && !o.self.None() && !k.stale[o.self] {
		k.w.seen.Solo++
		k.stale[o.self] = true
	}
}

func (k *checker) added(m Member) { delete(k.stale, m) }

// counted notes what the core's own counters say.
func (k *checker) counted(n *simNode) {
	c := n.core.Counters()
	if o := k.speaker(); o != nil && o != n && c.VotesRefused > n.count.VotesRefused {
		k.w.seen.VoteRefused++
	}
	if c.Forced > n.count.Forced {
		k.w.seen.Forced++
	}
	if c.HandOvers > n.count.HandOvers && n.state.Active != n.self {
		k.w.seen.HandBack++
	}
	if c.Discarded > n.count.Discarded {
		k.w.seen.Rewound++
	}
	if c.Snapshots > n.count.Snapshots {
		k.w.seen.Snapshot++
	}
	if n.id == 2 && n.core.leads() {
		k.w.seen.WitnessLed++
	}
	if n.lease > 0 && n.yielded == n.state.Epoch && n.state.Active == n.self {
		k.w.seen.YieldFailed++
		n.yielded = 0
	}
	n.count = c
}

// speaker is who may speak now, or nil.
func (k *checker) speaker() *simNode {
	for _, n := range k.w.nodes {
		if n.speaks() {
			return n
		}
	}
	return nil
}

// converged: all live and vote, one leads and speaks, and all know it.
func (k *checker) converged() bool {
	s := k.speaker()
	if s == nil || !s.lead {
		return false
	}
	for _, n := range k.w.nodes {
		if !n.alive || n.core.join.memory != whole || n.state.Active != s.self || n.core.leads() != (n == s) {
			return false
		}
	}
	return true
}

func (k *checker) unfinished() string {
	out := fmt.Sprintf("committed %+v", k.state)
	for _, n := range k.w.nodes {
		out += fmt.Sprintf("\n%v alive=%v lead=%v memory=%d lease=%d clock=%d state=%+v", n.self, n.alive, n.lead, n.core.join.memory, n.lease, n.clock(), n.state)
	}
	return out
}
