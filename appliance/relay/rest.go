package relay

import (
	"hash/maphash"
	"math/bits"
	"net/netip"
	"sync"
	"time"

	"lockstep/replication"
)

// A takeover of very many connections that are passed on would last as long as making all of them: seconds. So they
// are found by their addresses first, which is a small part of the work, and each is made when one of its packets
// comes, or later, some at a time. Until then it is as good as in the table: no other connection gets its flows.

// resting are the connections that a takeover has not made yet.
type resting struct {
	r    *Relay
	seed maphash.Seed
	// slots is open addressing by the hash of a flow: index in rest + 1 in the lower bits, some of the hash in
	// the others; 0: free. It does not change after Rest, so that a packet that is nobody's here waits for nobody.
	slots []uint32
	bits  int // of the index

	mu    sync.Mutex // guards what follows; beneath it what restoring locks. It is held for one connection at a time
	rest  *replication.Rest
	taken []bool // by index
	next  int    // before it all are taken
	left  int
	lost  LostError

	making making
}

// making is the connection that is being made, which the journal knows from when it is told, and the table a
// moment later.
type making struct {
	mu     sync.Mutex // a leaf
	id     replication.ConnID
	wanted bool // the journal has asked for it meanwhile
}

// begin and end enclose the moment.
func (m *making) begin(id replication.ConnID) {
	m.mu.Lock()
	m.id, m.wanted = id, false
	m.mu.Unlock()
}

func (m *making) end() (wanted bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.id = 0
	return m.wanted
}

// want reports whether it is that one.
func (m *making) want(id replication.ConnID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wanted = m.wanted || m.id == id
	return m.id == id
}

// Adopt is called by the journal: it wants this connection. One that is just being made answers when it is: a request
// that nobody heard would keep the standby out of sync for the life of the connection.
func (r *Relay) Adopt(id replication.ConnID) {
	c := r.Lookup(id)
	if c == nil {
		if t := r.resting.Load(); t != nil && t.making.want(id) {
			return
		}
		c = r.Lookup(id) // it may have been made in between
	}
	if c != nil {
		c.Adopt()
	}
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
	t := &resting{r: r, seed: maphash.MakeSeed(), rest: rest, slots: make([]uint32, size), bits: bits.Len(uint(n)), taken: make([]bool, n), left: n}
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
	// Who has taken the place of a terminated one, or given way to it, is made before anything else runs: that
	// one's legs are its worker's later.
	r.Each(func(c *Conn) {
		vip, client := c.ends()
		t.wake(vip, client)
	})
	r.engine.SetMissing(t.wake)
}

// slot is where a flow is looked for, and what is there besides the index if it is that flow.
func (t *resting) slot(f restFlow) (at int, print uint32) {
	h := maphash.Comparable(t.seed, f)
	return int(h & uint64(len(t.slots)-1)), uint32(h>>32) >> t.bits
}

func (t *resting) put(f restFlow, i int) {
	at, print := t.slot(f)
	for t.slots[at] != 0 {
		at = (at + 1) & (len(t.slots) - 1)
	}
	t.slots[at] = print<<t.bits | uint32(i+1)
}

// wake makes the connection that has a flow, and reports whether there was one.
func (t *resting) wake(local, remote netip.AddrPort) (found bool) {
	f := restFlow{local, remote}
	at, print := t.slot(f)
	// Two may have a flow, of which one has ended: whichever is newer stays.
	for ; t.slots[at] != 0; at = (at + 1) & (len(t.slots) - 1) {
		if t.slots[at]>>t.bits == print && t.takeIf(int(t.slots[at]&(1<<t.bits-1))-1, f) {
			found = true
		}
	}
	return found
}

// takeIf makes a connection unless it is made or the flow is none of its own. One that is being made is so by its return.
func (t *resting) takeIf(i int, f restFlow) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.taken[i] {
		return false
	}
	client, server := t.rest.Flows(i)
	if f != (restFlow{client[0], client[1]}) && f != (restFlow{server[0], server[1]}) {
		return false
	}
	t.take(i)
	return true
}

// takeNext makes the next connection and returns how many are left.
func (t *resting) takeNext() (left int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for ; t.next < len(t.taken); t.next++ {
		if !t.taken[t.next] {
			t.take(t.next)
			break
		}
	}
	return t.left
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
	t.making.begin(k.Record.ID)
	r.journal.Continued(k.Record.ID)
	c, err := r.restoreOne(&k, 0)
	if wanted := t.making.end(); wanted && c != nil {
		c.Adopt()
	}
	if c == nil {
		r.engine.UnclaimPort(k.Record.Server.Local, k.Record.Server.Remote)
	}
	if err != nil {
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
	left = t.takeNext()
	for ; most > 1 && left > 0; most-- {
		left = t.takeNext()
	}
	if left > 0 {
		return left, nil
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
		if taken {
			continue
		}
		_, server := t.rest.Flows(i)
		r.engine.UnclaimPort(server[0], server[1])
		if svc := r.byName[t.rest.Service(i)]; svc != nil {
			svc.conns.Add(-1)
			svc.passed.Add(-1)
		}
		t.taken[i] = true
	}
	t.left = 0
	t.next = len(t.taken)
}

// restBatch is how many connections End makes between two looks at the clock.
const restBatch = 64

// endRest makes what rests, as far as the time allows, and forgets the others. It returns how many these are.
func (r *Relay) endRest(limit time.Duration) (forgotten int) {
	for end := r.now() + limit; r.now() < end; {
		// Who cannot be continued is not reset either.
		if left, _ := r.RestoreSome(restBatch); left == 0 {
			return 0
		}
	}
	forgotten = r.Resting()
	r.dropRest()
	return forgotten
}

// Resting is how many connections are continued and not made yet. Each and Views do not tell of them.
func (r *Relay) Resting() int {
	t := r.resting.Load()
	if t == nil {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.left
}
