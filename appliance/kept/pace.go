package kept

import (
	"sort"
	"time"

	"lockstep/replication"
)

// paceWait is how long a replica that does not answer is kept waiting for the next bytes of the request. It may have cut an
// answer elsewhere, or the source may have answered without having been asked.
var paceWait = 2 * time.Second

// pace is a replica's place in replication.Turns.
type pace struct {
	held  bool          // it waits for its own answer
	until uint64        // up to there, in the response
	at    uint64        // where it was when last looked at, and since when
	since time.Duration // ...
	free  bool          // it does not answer, and is told all
}

// turn notes that what the client says next it says having got so much of the response. A protocol's adapter knows of messages, and is told
// whole ones.
func (k *Kept) turn() {
	if raw(k.ad) && !k.plain {
		k.turns.Note(k.log.end, k.seen.end)
	}
}

// paced is up to where a replica may be told the request. fin: and that it ends there.
func (r *replica) paced(k *Kept) (to uint64, fin bool) {
	t, ok := r.ahead(k)
	r.pace.held = ok
	if !ok {
		return k.log.end, true
	}
	p, now := &r.pace, k.host.Now()
	if p.until = t.Response; p.since == 0 || p.at != r.at {
		p.at, p.since = r.at, now
	}
	if now-p.since >= paceWait {
		p.free, p.held = true, false
		return k.log.end, true
	}
	k.wakeAt(p.since + paceWait)
	return t.Request, false
}

// ahead is the first turn that the replica has not come to.
func (r *replica) ahead(k *Kept) (replication.Turn, bool) {
	if r == k.source || r.pace.free || r.doubt {
		return replication.Turn{}, false
	}
	i := sort.Search(len(k.turns), func(i int) bool { return k.turns[i].Request >= r.written && k.turns[i].Response > r.at })
	if i == len(k.turns) {
		return replication.Turn{}, false
	}
	return k.turns[i], true
}

// answered reports whether replicas that were held may go on.
func (k *Kept) answered() bool {
	for _, r := range k.replicas() {
		if r.pace.held && (r.at >= r.pace.until || r == k.source || r.doubt) {
			return true
		}
	}
	return false
}
