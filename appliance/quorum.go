package appliance

import (
	"context"

	"lockstep/replication/arbiter"
	"lockstep/replication/roles"
)

// With a witness the two appliances and the witness decide by Raft who is active, in
// which epoch, and whether the standby may take over (replication/arbiter). What is
// decided comes in as news, and roles.Voted turns it into roles. Three things may speak
// only in this order: the lease comes from the voter and is set on its own goroutine; a
// claim makes an appliance active; the gates open for good (PeerLost) only when the
// voters have taken the standby out.

// quorum is the roles.VotedAppliance.
type quorum struct{ *roleLoop }

var _ roles.VotedAppliance = (*quorum)(nil)

// Unpark implements roles.VotedAppliance.
func (q *quorum) Unpark() { q.unpark() }

// Unmute implements roles.VotedAppliance.
func (q *quorum) Unmute(why error) {
	n := q.n
	n.engine.Unmute()
	n.announce()
	n.log.Warn("the standby did not take over; going on", "err", why)
	q.declined(why)
}

// Announce implements roles.VotedAppliance.
func (q *quorum) Announce() { q.n.announce() }

// Leased implements roles.VotedAppliance.
func (q *quorum) Leased(epoch uint64) bool { return q.n.lease.lasts(epoch, q.n.clock.Now()) }

// SetAble implements roles.VotedAppliance.
func (q *quorum) SetAble(epoch uint64, able bool) { q.n.voter.SetAble(epoch, able) }

// AddStandby implements roles.VotedAppliance.
func (q *quorum) AddStandby(m arbiter.Member) { q.n.voter.AddStandby(m) }

// RemoveStandby implements roles.VotedAppliance.
func (q *quorum) RemoveStandby() { q.n.voter.RemoveStandby() }

// Yield implements roles.VotedAppliance.
func (q *quorum) Yield(to string) error { return q.n.voter.Yield(to) }

// SeekProof implements roles.VotedAppliance: nobody has to wait until the lease of a dead
// process has run out. Of a host that has died there is no proof, and the lease decides.
func (q *quorum) SeekProof(m arbiter.Member) {
	n := q.n
	n.wg.Add(1)
	go func() {
		defer n.wg.Done()
		ctx, cancel := context.WithTimeout(q.ctx, n.cfg.Pair.FailureTimeout)
		defer cancel()
		if n.refuses(ctx, m.Node) {
			n.voter.PeerGone(m)
		}
	}()
}
