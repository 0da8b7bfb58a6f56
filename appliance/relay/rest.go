package relay

import (
	"hash/maphash"
	"net/netip"
	"sync"

	"lockstep/replication"
)

// A takeover of very many connections that are passed on would last as long as making all of them: seconds. So they
// are found by their addresses first, which is a small part of the work, and each is made when one of its packets
// comes, or later, some at a time. Until then it is as good as in the table: no other connection gets its flows.

// resting are the connections that a takeover has not made yet.
type resting struct {
	r    *Relay
	seed maphash.Seed

	mu    sync.Mutex // guards what follows; beneath it what restoring locks
	rest  *replication.Rest
	slots []uint32 // open addressing by the hash of a flow: index in rest + 1; 0: free
	taken []bool   // by index
	next  int      // before it all are taken
	left  int
	lost  LostError
}

// restFlow is a leg's local and remote address.
type restFlow struct{ local, remote netip.AddrPort }

// Rest takes the connections of a takeover that are to be made one by one. They can be found from its return on;
// RestoreSome has to be called until none is left.
func (r *Relay) Rest(rest *replication.Rest) {
	n := rest.Len()
	if n == 0 {
		return
	}
	size := 1
	for size < 4*n {
		size *= 2
	}
	t := &resting{r: r, seed: maphash.MakeSeed(), rest: rest, slots: make([]uint32, size), taken: make([]bool, n), left: n}
	t.lost.ByService = make(map[string]int)
	var svc *Service
	for i := range n {
		client, server := rest.Flows(i)
		t.put(restFlow{client[0], client[1]}, i)
		t.put(restFlow{server[0], server[1]}, i)
		r.engine.ClaimPort(server[0], server[1])
		if name := rest.Service(i); svc == nil || svc.Name != name {
			svc = r.byName[name]
		}
		if svc != nil {
			svc.conns.Add(1)
			svc.passed.Add(1)
		}
	}
	r.resting.Store(t)
	r.engine.SetMissing(t.wake)
}

func (t *resting) slot(f restFlow) int {
	return int(maphash.Comparable(t.seed, f) & uint64(len(t.slots)-1))
}

func (t *resting) put(f restFlow, i int) {
	at := t.slot(f)
	for t.slots[at] != 0 {
		at = (at + 1) & (len(t.slots) - 1)
	}
	t.slots[at] = uint32(i + 1)
}

// wake makes the connection that has a flow, and reports whether there was one.
func (t *resting) wake(local, remote netip.AddrPort) (found bool) {
	f := restFlow{local, remote}
	at := t.slot(f)
	t.mu.Lock()
	defer t.mu.Unlock()
	// Two may have a flow, of which one has ended: whichever is newer stays.
	for ; t.slots != nil && t.slots[at] != 0; at = (at + 1) & (len(t.slots) - 1) {
		i := int(t.slots[at] - 1)
		if t.taken[i] {
			continue
		}
		client, server := t.rest.Flows(i)
		if f == (restFlow{client[0], client[1]}) || f == (restFlow{server[0], server[1]}) {
			t.take(i)
			found = true
		}
	}
	return found
}

// take makes a connection; mu is held.
func (t *resting) take(i int) {
	r := t.r
	t.taken[i] = true
	t.left--
	k := t.rest.Take(i)
	if svc := r.byName[k.Record.Service]; svc != nil {
		svc.conns.Add(-1)
		svc.passed.Add(-1)
	}
	r.journal.Continued(k.Record.ID)
	if _, err := r.restoreOne(&k, 0); err != nil {
		r.journal.Close(k.Record.ID, replication.Aborted)
		t.lost.ByService[k.Record.Service]++
		if t.lost.First == nil {
			t.lost.First = err
		}
	}
}

// RestoreSome makes some of the connections that rest, and returns how many are left. When there is none,
// the error is a *LostError if not all could be continued.
func (r *Relay) RestoreSome(most int) (left int, err error) {
	t := r.resting.Load()
	if t == nil {
		return 0, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for ; most > 0 && t.next < len(t.taken); t.next++ {
		if !t.taken[t.next] {
			t.take(t.next)
			most--
		}
	}
	if t.left > 0 {
		return t.left, nil
	}
	r.forgetRest()
	if t.lost.First != nil {
		return 0, &t.lost
	}
	return 0, nil
}

// forgetRest: nothing rests any more.
func (r *Relay) forgetRest() {
	r.engine.SetMissing(nil)
	r.resting.Store(nil)
}

// dropRest forgets what rests: somebody else continues it.
func (r *Relay) dropRest() {
	t := r.resting.Load()
	if t == nil {
		return
	}
	r.forgetRest()
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, taken := range t.taken {
		if svc := r.byName[restService(t.rest, i, taken)]; svc != nil {
			svc.conns.Add(-1)
			svc.passed.Add(-1)
		}
	}
	t.slots, t.left = nil, 0
	t.next = len(t.taken)
}

func restService(rest *replication.Rest, i int, taken bool) string {
	if taken {
		return ""
	}
	return rest.Service(i)
}

// resting is how many connections are continued and not made yet.
func (r *Relay) restingLeft() int {
	t := r.resting.Load()
	if t == nil {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.left
}
