package appliance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"lockstep/replication"
	"lockstep/replication/arbiter"
)

// What the rules of the roles want done: quorum is their roles.Appliance.

// Role implements roles.Appliance.
func (q *quorum) Role() replication.Role { return q.n.getRole() }

// Epoch implements roles.Appliance.
func (q *quorum) Epoch() uint64 { return q.n.journal.epoch() }

// InSync implements roles.Appliance.
func (q *quorum) InSync() bool { return q.n.journal.inSync() }

// Connected implements roles.Appliance.
func (q *quorum) Connected() bool { return q.n.sess != nil }

// CloseSession implements roles.Appliance.
func (q *quorum) CloseSession() bool { return q.n.closeSession() }

// Release implements roles.Appliance.
func (q *quorum) Release() {
	q.n.journal.with(func(c *replication.Core, _ replication.Nanos) { c.PeerLost() })
}

// Unpark closes the parked session; the two dial again and say what they are then.
func (q *quorum) Unpark() {
	if q.parked != nil {
		q.parked.Close()
		q.parked = nil
	}
}

// Follow implements roles.Appliance.
func (q *quorum) Follow(epoch uint64) {
	q.n.forgotten = nil // the active has it
	q.n.becomeStandby(epoch)
}

// Continue implements roles.Appliance.
func (q *quorum) Continue(epoch uint64) error {
	err := q.n.takeover(epoch, q.known, q.why)
	if err != nil {
		q.n.log.Error("the connections cannot be continued; starting without them", "err", err)
	}
	return err
}

// StartEmpty implements roles.Appliance.
func (q *quorum) StartEmpty(epoch uint64) {
	n := q.n
	if n.getRole() == replication.RoleStandby {
		n.forgotten = n.held()
	}
	n.becomeActive(epoch, "the witness and this appliance agree; there are no connections to continue")
	if !q.former.Active.None() {
		n.noteLoss("nobody who may have held connections was left, or heard of for pair.start_empty_after")
	}
}

// Mute implements roles.Appliance.
func (q *quorum) Mute() { q.n.engine.SetActive(false) }

// Unmute implements roles.Appliance.
func (q *quorum) Unmute() {
	q.n.engine.Unmute()
	q.n.announce()
}

// StepDown implements roles.Appliance.
func (q *quorum) StepDown() {
	s := q.rules.State()
	q.n.forgotten = q.n.held()
	q.n.stepDown(fmt.Sprintf("%s is active in epoch %d", s.Active.Node, s.Epoch))
}

// Leased implements roles.Appliance.
func (q *quorum) Leased(epoch uint64) bool { return q.n.lease.lasts(epoch, q.n.clock.Now()) }

// SetAble implements roles.Appliance.
func (q *quorum) SetAble(epoch uint64, able bool) { q.voter.SetAble(epoch, able) }

// AddStandby implements roles.Appliance.
func (q *quorum) AddStandby(m arbiter.Member) { q.voter.AddStandby(m) }

// RemoveStandby implements roles.Appliance.
func (q *quorum) RemoveStandby() { q.voter.RemoveStandby() }

// Yield implements roles.Appliance.
func (q *quorum) Yield(to string) error { return q.voter.Yield(to) }

// SeekProof implements roles.Appliance.
func (q *quorum) SeekProof(m arbiter.Member) {
	q.n.wg.Add(1)
	go q.seekProof(q.ctx, m)
}

// seekProof redials the peer's sync address: if the peer's own kernel refuses, the
// process that listened there is dead, and nobody has to wait until its lease has
// run out. (An appliance that ends in order falls silent before it stops listening.)
// A host that has died refuses nothing; then the lease decides.
func (q *quorum) seekProof(ctx context.Context, m arbiter.Member) {
	n := q.n
	defer n.wg.Done()
	ctx, cancel := context.WithTimeout(ctx, n.cfg.Pair.FailureTimeout)
	defer cancel()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: n.cfg.Pair.Members[n.cfg.Node].Addr().AsSlice()}}
	for pause := proofPause; ; pause *= 2 {
		conn, err := d.DialContext(ctx, "tcp", n.cfg.Pair.Members[m.Node].String())
		if err == nil {
			conn.Close()
		} else if errors.Is(err, syscall.ECONNREFUSED) {
			q.voter.PeerGone(m)
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}
