package relay

import (
	"net/netip"
	"slices"

	"lockstep/replication"
)

// Served finds the connection of a client with a server that sees the client's address: one that outlives its server, or nobody
// would have to agree with that one.
func (r *Relay) Served(client, server netip.AddrPort) (id replication.ConnID, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		if !c.svc.Kept || c.svc.SourceGateway || c.ID <= id {
			continue
		}
		if _, its := c.ends(); its == client && slices.Contains(c.svc.Pool.Servers(), server) {
			id, ok = c.ID, true // the newest: the client may have begun anew from the same port
		}
	}
	return id, ok
}
