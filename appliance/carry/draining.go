package carry

import (
	"sync/atomic"
	"time"
)

// A peer's RST, or its silent death, ends its leg at once, but not what it has said
// before: a server that answers and closes without having read all of a request sends
// its answer and then a RST (RFC 9293, 3.10.4; RFC 1122, 4.2.2.13). Without a gateway the
// client has the answer in its receive buffer before the RST comes. So it is here: what
// the ended leg has received goes to the other one, and when its peer has acknowledged
// all of it the reset is passed on.

const (
	// drainSilent is how long the receiver may acknowledge nothing, drainMax how long
	// it may take in all. Then it is reset with what it has.
	drainSilent = 10 * time.Second
	drainMax    = 2 * time.Minute
	// drainLook: it is looked once a second. If it was not for so long, this process was not running, and what the receiver has
	// acknowledged waits to be read: its time begins anew, as often as drainPauses.
	drainLook   = 3 * time.Second
	drainPauses = 3
)

// Draining is what is known of a connection of which one leg has ended. The worker owns
// all but On.
type Draining struct {
	On     atomic.Bool // read by the janitor, which runs the connection from time to time
	since  time.Duration
	moved  time.Duration // when the receiver has last acknowledged something
	acked  uint64        // how far that was
	looked time.Duration // when it was last looked
	pauses int           // of this process, since
}

// Begin notes that a leg has ended.
func (d *Draining) Begin(now time.Duration) {
	if !d.On.Swap(true) {
		d.since, d.moved, d.looked, d.acked, d.pauses = now, now, now, 0, 0 // what is counted differs from time to time
	}
}

// Late reports whether the receiver, which has acknowledged everything below acked, has
// had its time: silent without a sign of progress; 0: drainSilent.
func (d *Draining) Late(now time.Duration, acked uint64, silent time.Duration) bool {
	if acked > d.acked {
		d.acked, d.moved = acked, now
	}
	if silent == 0 {
		silent = drainSilent
	}
	if gap := now - d.looked; gap > drainLook && d.pauses < drainPauses {
		d.since, d.moved, d.pauses = d.since+gap, now, d.pauses+1
	}
	d.looked = now
	return now-d.moved > silent || now-d.since > drainMax
}
