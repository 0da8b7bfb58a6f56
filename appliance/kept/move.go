package kept

import "lockstep/replication"

// A server that is drained, or in the list no more, is left by the connections that can leave it: for a replica that has sent the
// same, or for a server that is told the request for that, as when one has died. Its own leg goes on until
// the other one's is what the standby would continue.

// staying is how many replicas have servers that are not to be left.
func (k *Kept) staying() (n int) {
	for _, r := range k.replicas() {
		if !k.pool.Leaves(r.server) {
			n++
		}
	}
	return n
}

// leaving reports whether the connection has a server that it is to leave, and might.
func (k *Kept) leaving() bool {
	return !k.plain && k.staying() < len(k.replicas()) && k.pool.Ready() > 0
}

// move lets the client have another server's bytes if the source is to be left, and lets go of legs to such servers that
// nobody needs any more.
func (k *Kept) move() {
	if !k.leaving() || k.source == nil || k.streams[replication.Response].FinPassed {
		return
	}
	if k.pool.Leaves(k.source.server) {
		if r := k.successor(); r != nil {
			k.switchTo(r)
			k.wakeAt(0)
		}
	}
	if k.pool.Leaves(k.source.server) || !k.source.recorded.Load() || k.legOut.Load() {
		return
	}
	for _, r := range k.replicas() {
		if k.pool.Leaves(r.server) {
			k.lose(r, "its server is drained")
		}
	}
}

// successor is a replica that could go on for the source at this very byte: all that was released has been written to
// the client, nothing is held of what comes, and it has sent the same.
func (k *Kept) successor() *replica {
	s := &k.streams[replication.Response]
	if s.Next < k.seen.end || k.seen.end < k.formerTo || len(k.holds(s.Next)) > 0 || k.source.leg.Err() != nil {
		return nil
	}
	for _, r := range k.replicas() {
		if r == k.source || r.doubt || r.at != k.seen.end || !r.leg.Established() || r.leg.Err() != nil || k.pool.Leaves(r.server) || k.splits(r) {
			continue
		}
		if down, _ := k.pool.Failing(r.server); down {
			continue
		}
		if ok, _ := k.vouched(); !ok {
			return nil // see elect
		}
		return r
	}
	return nil
}
