package replication

import "net/netip"

// Of a connection that is passed on nothing is known but its record, and nothing is to be built: whoever takes
// over need not look at it before one of its packets comes. So TakeoverFirst hands out what may be in a hurry, and
// leaves the others to be taken one by one: a million of them take seconds.

// Rest is what is left of the store of a standby that has taken over: connections that are passed
// on, the newest first. It belongs to the caller. Each is to be told by Continued once it goes on.
type Rest struct{ list []*kept }

// Len is how many there are.
func (r *Rest) Len() int { return len(r.list) }

// Service is that of the i-th.
func (r *Rest) Service(i int) string { return r.list[i].service }

// Flows are the local and remote addresses of the two legs of the i-th: the client's, the server's.
func (r *Rest) Flows(i int) (client, server [2]netip.AddrPort) {
	k := r.list[i]
	return k.clientFlow(), k.serverFlow()
}

// Take hands out the i-th, which is nobody's then.
func (r *Rest) Take(i int) Continue {
	k := r.list[i]
	r.list[i] = nil
	c := k.hand()
	c.Idle = true
	return c
}

// TakeoverFirst is Takeover without the connections that are passed on, but for those that have ended. No
// standby is in sync before Continued was called for each of them.
func (c *Core) TakeoverFirst(epoch uint64) ([]Continue, *Rest, error) {
	if err := c.mayTakeOver(epoch); err != nil {
		return nil, nil, err
	}
	rest := &Rest{}
	var others []*kept
	for k := c.sb.lru.first; k != nil; k = k.at.next {
		if k.spliced {
			rest.list = append(rest.list, k)
		} else {
			others = append(others, k)
		}
	}
	all := c.takeOver(epoch, others)
	c.act.resting = len(rest.list)
	return all, rest, nil
}

// Continued tells that a connection of the Rest goes on, or will never: Close follows then.
func (c *Core) Continued(now Nanos, id ConnID) error {
	c.advance(now)
	a := &c.act
	if c.role != RoleActive || a.resting == 0 {
		return ErrUnexpected
	}
	if a.conns[id] != nil {
		c.drops[DuplicateOpen]++
		return ErrDuplicate
	}
	a.resting--
	a.addUnprotected(id)
	if a.snap.begun {
		a.snap.enqueue(a.conns[id])
	}
	a.proceed(c)
	return nil
}
