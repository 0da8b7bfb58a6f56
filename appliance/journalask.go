package appliance

import (
	"lockstep/replication"
)

// What the journal is asked about its core.

// ask asks the core for one thing.
func ask[T any](j *journal, f func(*replication.Core) T) (t T) {
	j.shell.Look(func(c *replication.Core) { t = f(c) })
	return t
}

func (j *journal) stats() replication.Stats { return ask(j, (*replication.Core).Stats) }
func (j *journal) epoch() uint64            { return ask(j, (*replication.Core).Epoch) }
func (j *journal) inSync() bool             { return ask(j, (*replication.Core).InSync) }
func (j *journal) heard() replication.Nanos { return ask(j, (*replication.Core).Heard) }
func (j *journal) peerFit() bool            { return ask(j, (*replication.Core).PeerFit) }

func (j *journal) heldServices() map[string]int { return ask(j, (*replication.Core).HeldServices) }

// replaceable reports whether the standby may take over by itself: it was told that it
// holds everything.
func (j *journal) replaceable() bool { return ask(j, (*replication.Core).SaidSynced) }

func (j *journal) setRole(r replication.Role, epoch uint64) error {
	return ask(j, func(c *replication.Core) error { return c.SetRole(r, epoch) })
}

// said is what a Hello says: of one moment, since the peer decides by it.
func (j *journal) said() (role replication.Role, inSync bool, epoch uint64) {
	j.shell.Look(func(c *replication.Core) { role, inSync, epoch = c.Role(), c.InSync(), c.Epoch() })
	return role, inSync, epoch
}

func (j *journal) confirmed() (at replication.Nanos, ok bool) {
	j.shell.Look(func(c *replication.Core) { at, ok = c.Confirmed() })
	return at, ok
}

func (j *journal) peerSilent() bool {
	now := j.now()
	return ask(j, func(c *replication.Core) bool { return c.PeerSilent(now) })
}

// leaseEnd is until when this active may speak without another word of the standby:
// until that could have taken over.
func (j *journal) leaseEnd() replication.Nanos {
	return ask(j, func(c *replication.Core) replication.Nanos {
		return c.HeardUs() + replication.LeaseTime(c.PeerPromise().Wait)
	})
}

func (j *journal) promised() replication.Promised { return ask(j, (*replication.Core).Promised) }

func (j *journal) peerPromise() replication.Promise { return ask(j, (*replication.Core).PeerPromise) }
