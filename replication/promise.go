package replication

import "lockstep/replication/wire"

// Promise is what a standby says in its heartbeats, by which a pair without a witness goes: so a machine that is late
// is neither mute nor taken for dead.
type Promise struct {
	Wait Nanos // it bears silence for so long at least, before it takes over because of it: the active's lease
	Mute Nanos // it counts on an active that goes on alone only when it was mute for as long as belongs to this
}

// Promised is which of its promises the active may go by: the newest that it has heard, which is one of those
// from the newest on that it has answered. So of Wait the standby keeps the longest and counts on the shortest, and of
// Mute it counts on the shortest. With that either can be made shorter as well as longer: what was said before counts
// until the active has answered what replaces it.
type Promised struct{ Least, Most Promise }

func (p *Promised) add(d Promise) {
	p.Least = Promise{min(p.Least.Wait, d.Wait), min(p.Least.Mute, d.Mute)}
	p.Most = Promise{max(p.Most.Wait, d.Wait), max(p.Most.Mute, d.Mute)}
}

type promises struct {
	next   Promise           // what our next heartbeat says
	said   [sentRing]Promise // by heartbeat, as sentAt
	counts Promised
	from   Promise // the peer's newest

	// shortened is the peer's heartbeat that makes its Wait shorter, and is answered when LeaseTold is called; 0: none.
	shortened uint64
}

func (p *promises) begin(failureTimeout Nanos) {
	d := Promise{failureTimeout, failureTimeout}
	*p = promises{next: d, counts: Promised{d, d}, from: d}
}

// send is told that heartbeat seq says what is next.
func (p *promises) send(seq uint64) {
	p.said[seq%sentRing] = p.next
	p.counts.add(p.next)
}

// answered is told that the peer has heard seq, the newest is newest. Fewer than sentRing lie between them.
func (p *promises) answered(seq, newest uint64) {
	d := p.said[seq%sentRing]
	p.counts = Promised{d, d}
	for ; seq <= newest; seq++ {
		p.counts.add(p.said[seq%sentRing])
	}
}

// hear takes the peer's promise in heartbeat seq, and says whether it may be answered at once. Who bears silence for no time, or counts on
// less than belongs to what it bears, is not believed: the active would speak for longer than it is mute for.
func (p *promises) hear(seq uint64, hb *wire.Heartbeat) (bool, error) {
	if hb.WaitMicros == 0 || hb.MuteMicros < hb.WaitMicros {
		return false, ErrPromise
	}
	d := Promise{Nanos(hb.WaitMicros) * microsecond, Nanos(hb.MuteMicros) * microsecond}
	if d.Wait < p.from.Wait || p.shortened != 0 {
		p.shortened = seq
	}
	p.from = d
	return p.shortened == 0, nil
}

// Promise is said from the next heartbeat on, neither time below Limits.FailureTimeout. It holds for the session; each
// begins with FailureTimeout. An older peer does not hear of it.
func (c *Core) Promise(d Promise) {
	if c.joined && c.version >= wire.PromiseVersion {
		c.beat.next = Promise{max(d.Wait, c.lim.FailureTimeout), max(d.Mute, c.lim.FailureTimeout)}
	}
}

// Promised is what this session's peer, or the last one's, may go by of what Promise has said.
func (c *Core) Promised() Promised {
	if c.beat.counts == (Promised{}) {
		d := Promise{c.lim.FailureTimeout, c.lim.FailureTimeout} // there was no session
		return Promised{d, d}
	}
	return c.beat.counts
}

// PeerPromise is what the peer of this session, or of the last one, has promised.
func (c *Core) PeerPromise() Promise {
	if c.beat.from == (Promise{}) {
		return Promise{c.lim.FailureTimeout, c.lim.FailureTimeout}
	}
	return c.beat.from
}

// LeaseTold is to be called after each Step, when whatever speaks by a lease has been told of what PeerPromise is now: a
// shorter one is answered then, not before, since the peer goes by it from the answer on.
func (c *Core) LeaseTold() {
	if b := &c.beat; b.shortened != 0 {
		b.answer, b.shortened = b.shortened, 0
	}
}
