package voter

import (
	"time"

	"lockstep/replication"
	"lockstep/replication/arbiter"
)

// retryPause is how long a voter that cannot write its file waits before it tries
// again.
const retryPause = 500 * time.Millisecond

// loop is the only goroutine that touches the core. before is the failure_timeout
// of the voter's life before this one.
func (v *Voter) loop(before time.Duration) {
	defer close(v.done)
	if !v.keepOldPromise(before) {
		return
	}
	v.pace = newPace(v.now(), replication.Nanos(v.cfg.FailureTimeout))
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-v.quit:
			return
		case f := <-v.calls:
			now := v.now()
			v.pace.woke(now, false, true)
			f(now)
		case l := <-v.inbox:
			now := v.now()
			v.pace.woke(now, false, true)
			if err := v.core.Step(now, l.from, l.msg); err != nil {
				v.refused.Add(1)
				v.cfg.Log.Debug("a voter's message is of no use", "voter", l.from.Node, "error", err.Error())
			}
		case <-timer.C:
			now := v.now()
			if v.pace.woke(now, true, len(v.inbox) > 0) {
				v.core.Tick(now)
			}
		}
		if !v.apply() {
			return
		}
		v.core.SetDelay(replication.Nanos(v.delay.Load()))
		// Any input can move the core's next deadline.
		now := v.now()
		timer.Reset(time.Duration(v.pace.next(now, v.core.NextTick(now)) - now))
		v.stalls.Store(v.pace.stalls)
	}
}

// apply carries out what the core has ready, in its order. It reports false when
// the voter has to end.
func (v *Voter) apply() bool {
	rd := v.core.Ready()
	if rd.Persist != nil && !v.persist(rd.Persist) {
		return false
	}
	for _, m := range rd.Messages {
		v.courier.Send(m.To, m.Data)
	}
	v.tell(rd)
	return true
}

// persist writes what must not be forgotten. Until that has worked nothing may
// leave, so a voter with a full disk falls silent, and comes back when there is
// room. It reports false when the voter has to end.
func (v *Voter) persist(blob []byte) bool {
	for first := true; ; first = false {
		err := v.file.Save(encodeMemory(v.cfg.FailureTimeout, blob))
		if err == nil {
			if !first {
				v.cfg.Log.Info("the voter's state can be written again")
			}
			return true
		}
		v.failures.Add(1)
		if first {
			v.cfg.Log.Error("silent until the voter's state can be written", "error", err.Error())
		}
		timer := time.NewTimer(retryPause)
		select {
		case <-timer.C:
		case <-v.quit:
			timer.Stop()
			return false
		}
	}
}

// tell passes on the lease, and the news if there are any.
func (v *Voter) tell(rd *arbiter.Ready) {
	var until time.Time
	if rd.Lease > 0 {
		until = v.start.Add(time.Duration(rd.Lease))
	}
	if epoch := rd.State.Epoch; !until.Equal(v.lease) || epoch != v.leaseEpoch {
		v.lease, v.leaseEpoch = until, epoch
		v.cfg.OnLease(epoch, until)
	}
	n := News{State: rd.State, Solo: rd.Solo, Leader: rd.Leader, Quorum: rd.Quorum, Joined: rd.Joined}
	counters := v.core.Counters()
	v.mu.Lock()
	fresh := rd.Claimed != nil || n != v.latest
	v.latest, v.counters = n, counters
	v.mu.Unlock()
	if fresh {
		n.Claimed = rd.Claimed
		v.publish(n)
	}
}
