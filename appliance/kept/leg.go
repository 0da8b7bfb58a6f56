package kept

import (
	"time"

	"lockstep/appliance/carry"
	"lockstep/replication"
)

// A standby continues the leg of which it has the record. So what another leg's server
// says goes to the client only when the standby holds that one's record: else it would go
// on with the server before, from where another one has got to, and what the client has
// would be of both (invariants 3 and 6). What a server is told before that is what the
// standby would tell one again.

// legPatience is how long a server whose turn has come may lack some of what the one
// before it has acknowledged of the request, without acknowledging any more of it.
const legPatience = time.Second

// record makes the journal know the source's leg, as soon as its server has
// acknowledged as much of the request as the standby believes delivered: the standby
// would continue the leg from there. One leg at a time is on its way to the standby, since
// LegHeld does not say which one it is.
func (k *Kept) record() {
	r := k.source
	if r == nil || r.recorded.Load() || k.flags.Protected.Load() && k.legOut.Load() {
		return
	}
	if !k.settled(r) {
		if !k.flags.Protected.Load() { // else the standby has what the client is to get first
			k.lags(r, k.streams[replication.Response].Next)
		}
		return
	}
	if !k.exchange(r) {
		k.lags(r, r.acked.Load())
		return
	}
	if k.host.Wanted() {
		k.host.Wake() // a standby waits for it
	}
}

// exchange makes r's leg the recorded one, unless its server lacks some of what is delivered.
// What another leg's server has acknowledged is told before that, and counts here, or not at all.
func (k *Kept) exchange(r *replica) bool {
	server := carry.LegRecord(r.leg.Params())
	k.recording.Lock()
	defer k.recording.Unlock()
	if r.acked.Load() < k.streams[replication.Request].Delivered.Load() {
		return false
	}
	for _, x := range k.replicas() {
		x.recorded.Store(false)
	}
	if k.proof != nil {
		k.proof.recorded.Store(false)
	}
	k.server, k.start = server, r.start
	if k.flags.Protected.Load() {
		k.legOut.Store(true)
		k.journal.ServerLeg(k.id, k.server, k.start)
	}
	r.recorded.Store(true)
	k.Deliver(replication.Request, r.acked.Load())
	return true
}

// lags waits for a source that cannot be recorded yet. If it does not get on (to at), because it
// wants its answer to be taken first, the standby is asked to forget the connection:
// better without it than with a leg that it could not continue.
func (k *Kept) lags(r *replica, at uint64) {
	if !k.flags.Protected.Load() && !k.host.Wanted() {
		return
	}
	now := k.host.Now()
	if k.lagging != r || at != k.lagAt {
		k.lagging, k.lagAt, k.lagSince = r, at, now
	}
	if now-k.lagSince >= legPatience {
		k.lagSince = now
		k.host.Unwanted()
		k.journal.Forgo(k.id)
	}
	k.wakeAt(k.lagSince + legPatience)
}

// mayRelease reports whether what the source says now may go to the client.
func (k *Kept) mayRelease() bool {
	return k.source == nil || !k.flags.Protected.Load() || k.source.recorded.Load() && !k.legOut.Load()
}

// barred reports whether the end of the source has to wait until what it has sent may be released.
func (k *Kept) barred(r *replica) bool { return k.settled(r) && !k.mayRelease() }

// LegHeld is called by the journal: the standby holds the leg that it was told of, or will
// not continue the connection.
func (k *Kept) LegHeld() { k.legOut.Store(false) }
