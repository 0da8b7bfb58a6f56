package relay

import (
	"cmp"
	"net/netip"
	"slices"

	"lockstep/replication"
)

// Served finds the connection of a client with a server that sees the client's address: one that outlives its server, or nobody
// would have to agree with that one.
func (r *Relay) Served(client, server netip.AddrPort) (id replication.ConnID, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range slices.Backward(r.asking[client]) { // the newest: the client may have begun anew from the same port
		if _, ok := c.svc.Pool.Find(server); ok {
			return c.ID, true
		}
	}
	return 0, false
}

// enter puts a connection into the tables. mu is held.
func (r *Relay) enter(c *Conn, client netip.AddrPort) {
	r.conns[c.ID] = c
	r.watch(c)
	if c.svc.Kept && !c.svc.SourceGateway {
		same := append(r.asking[client], c)
		slices.SortFunc(same, func(a, b *Conn) int { return cmp.Compare(a.ID, b.ID) })
		r.asking[client] = same
	}
}

// noMore: nobody asks of a connection that has ended. mu is held.
func (r *Relay) noMore(c *Conn, client netip.AddrPort) {
	switch same := slices.DeleteFunc(r.asking[client], func(x *Conn) bool { return x == c }); {
	case len(same) > 0:
		r.asking[client] = same
	default:
		delete(r.asking, client)
	}
}
