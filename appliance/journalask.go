package appliance

import (
	"time"

	"lockstep/replication"
)

// What the journal is asked about its core.

func (j *journal) stats() replication.Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.core.Stats()
}

func (j *journal) epoch() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.core.Epoch()
}

func (j *journal) setRole(r replication.Role, epoch uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.core.SetRole(r, epoch)
}

// said is what a Hello says: of one moment, since the peer decides by it.
func (j *journal) said() (role replication.Role, inSync bool, epoch uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.core.Role(), j.core.InSync(), j.core.Epoch()
}

func (j *journal) inSync() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.core.InSync()
}

func (j *journal) heldServices() map[string]int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.core.HeldServices()
}

func (j *journal) heard() replication.Nanos {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.core.Heard()
}

func (j *journal) confirmed() (at replication.Nanos, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.core.Confirmed()
}

func (j *journal) peerFit() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.core.PeerFit()
}

func (j *journal) peerSilent() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.core.PeerSilent(j.now())
}

// replaceable reports whether the standby may take over by itself: it was told that it
// holds everything.
func (j *journal) replaceable() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.core.SaidSynced()
}

// leaseEnd is until when this active may speak without another word of the standby:
// until that could have taken over.
func (j *journal) leaseEnd(failureTimeout time.Duration) replication.Nanos {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.core.HeardUs() + replication.LeaseTime(replication.Nanos(failureTimeout))
}
