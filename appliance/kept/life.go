package kept

import (
	"slices"
	"time"

	"lockstep/appliance/adapter"
	"lockstep/appliance/carry"
	"lockstep/replication"
	"lockstep/stack"
)

// lingerMax bounds how long the replicas may take to end after the connection has.
const lingerMax = 10 * time.Second

// lineWait bounds how long a client waits until its server's end could be judged. Without a
// line it would have to be told the request twice, to be believed.
const lineWait = 300 * time.Millisecond

// Dial dials the connection's first server.
func (k *Kept) Dial(i int) error {
	k.client.Lone() // another server may follow, at other offsets, or several at once
	k.first = i
	if k.svc.Ready == nil || k.svc.Ready(i, k.lineReady) {
		return k.dial()
	}
	k.dialBy = k.host.Now() + lineWait
	k.wakeAt(k.dialBy)
	return nil
}

func (k *Kept) lineReady() {
	k.ready.Store(true)
	k.host.Wake()
}

func (k *Kept) dial() error {
	r := &replica{k: k, server: k.first}
	r.ad, r.line = adapter.Raw{}, k.line(k.first)
	leg, err := k.host.Dial(k.first, r)
	if err != nil {
		return err
	}
	leg.Lone()
	r.leg, k.source, k.last = leg, r, k.first
	k.all.Store(&[]*replica{r})
	return nil
}

// Answered reports whether the first server has answered, or why it will not.
func (k *Kept) Answered() (yes bool, err error) {
	if k.source == nil {
		if !k.ready.Load() && k.host.Now() < k.dialBy {
			k.wakeAt(k.dialBy)
			return false, nil
		}
		if err := k.dial(); err != nil {
			return false, err
		}
	}
	return k.source.leg.Established(), k.source.leg.Err()
}

// Begin is called when the first server has answered, before the journal is told. It
// returns what the record is to say: its leg, and that the request is logged.
func (k *Kept) Begin() (leg replication.LegRecord, logged bool) {
	r := k.source
	r.born = k.host.Now()
	r.dial.since = r.born
	_, r.checks = k.pool.Failing(r.server)
	r.recorded.Store(true)
	k.server = carry.LegRecord(r.leg.Params())
	k.lead(r)
	return k.server, true
}

// lead joins the client's leg with that of its source, for the class of service.
func (k *Kept) lead(r *replica) { stack.Join(k.client, r.leg) }

// Attach builds endpoints for legs whose peers are established.
func (k *Kept) Attach() {
	if k.parked {
		k.unpark()
	}
	if k.client.Waiting() {
		if err := k.client.Attach(); err != nil {
			k.host.Abort()
			return
		}
	}
	for _, r := range k.replicas() {
		if r.leg.Waiting() {
			if err := r.leg.Attach(); err != nil {
				k.lose(r, "the leg cannot be continued")
			}
		}
	}
}

// Gone reports whether the connection has ended in its handshake: its client is gone, and
// has left nothing for the servers. A server that ends is replaced.
func (k *Kept) Gone() bool { return k.client.Err() != nil && !k.RequestLeft() }

// Refused is nil: the first server's end is not the client's.
func (k *Kept) Refused() error { return nil }

// Opens reports whether the connection is open as soon as the client's endpoint is there.
func (k *Kept) Opens() bool { return true }

// Whole reports whether no endpoint is missing any more.
func (k *Kept) Whole() bool {
	return k.client.Established() && (k.source == nil || k.source.leg.Established())
}

// Complete lets the servers know that the client has completed its handshake.
func (k *Kept) Complete() {
	for _, r := range k.replicas() {
		r.leg.Complete()
	}
}

// Permit is called by the journal: ACKs to the sender of s may cover off.
func (k *Kept) Permit(s replication.Stream, off uint64) {
	if s == replication.Request {
		k.client.Permit(off) // before the worker may see that this was the last
		k.streams[s].Permit.Store(off)
		return
	}
	permit := func() {
		for _, r := range k.replicas() {
			r.permit(off)
		}
	}
	permit()
	k.streams[s].Permit.Store(off)
	permit() // a leg that was added meanwhile has seen one or the other
}

// Delivered is how far the receiver of s has acknowledged it.
func (k *Kept) Delivered(s replication.Stream) uint64 { return k.streams[s].Delivered.Load() }

// Need is called by the journal: it wants the response bytes [from, to).
func (k *Kept) Need(s replication.Stream, from, to uint64) { k.streams[s].Need(from, to) }

// OpenGates is called when nothing that the servers send waits for the standby any more.
func (k *Kept) OpenGates() {
	for _, r := range k.replicas() {
		r.leg.Open()
	}
}

// finished is finished: the source's server has acknowledged the client's FIN.
func (k *Kept) finished() bool {
	req, resp := &k.streams[replication.Request], &k.streams[replication.Response]
	if !req.FinPassed || !resp.FinPassed || resp.Delivered.Load() <= resp.End ||
		k.source == nil || k.source.acked.Load() <= req.End || !k.source.recorded.Load() {
		return false
	}
	return !k.flags.Protected.Load() || req.Permit.Load() > req.End && resp.Permit.Load() > resp.End
}

// finish ends the connection for the client and the source. The other replicas
// may have work to do: a server that is cut off in the middle of a request would not
// be the same afterwards.
func (k *Kept) finish() {
	k.Deliver(replication.Response, k.streams[replication.Response].Delivered.Load())
	k.Deliver(replication.Request, k.source.acked.Load())
	k.journal.Close(k.id, replication.Finished)
	k.client.Finish()
	k.source.leg.Finish()
	k.remove(k.source)
	k.startLingering()
}

// startLingering goes on with the replicas of a connection that the journal has closed.
func (k *Kept) startLingering() {
	k.flags.Protected.Store(false)
	k.OpenGates()
	k.lingering = true
	k.letGo()
	k.host.Ended()
	k.lingerTo = k.host.Now() + lingerMax
	k.linger()
}

// linger goes on with the replicas of a connection that has ended.
func (k *Kept) linger() {
	req := &k.streams[replication.Request]
	late := k.host.Now() >= k.lingerTo
	for _, r := range k.replicas() {
		r.feed(k)
		f := r.verify(k)
		if k.answered() {
			k.wakeAt(0)
		}
		switch {
		case f == diverged:
			k.diverged(r, max(r.doubtAt, k.seen.next(r.at)))
			fallthrough
		case f == early, late, r.leg.Err() != nil:
			k.lose(r, "the connection has ended without it")
		case r.ended && r.at == k.seen.end && r.acked.Load() > req.End:
			r.leg.Finish()
			k.remove(r)
		case r.ended && r.at == k.seen.end:
		default:
			k.discard(r)
		}
	}
	if len(k.replicas()) > 0 {
		k.wakeAt(k.lingerTo)
		return
	}
	k.over = true
	k.host.Done()
}

// Abort ends the servers' legs of a connection that is reset.
func (k *Kept) Abort() {
	k.over = true
	for _, r := range k.withProof() {
		r.end()
	}
}

// Drop ends them without a word.
func (k *Kept) Drop() {
	for _, r := range k.withProof() {
		r.leg.Drop()
	}
}

// withProof are all legs to servers there are.
func (k *Kept) withProof() []*replica {
	if k.proof == nil {
		return k.replicas()
	}
	return append(slices.Clone(k.replicas()), k.proof)
}
