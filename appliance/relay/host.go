package relay

import (
	"time"

	"lockstep/stack"
)

// host is a connection as package kept sees it.
type host struct{ c *Conn }

// Now implements kept.Host.
func (h host) Now() time.Duration { return h.c.r.now() }

// Wake implements kept.Host.
func (h host) Wake() { h.c.Wake(nil) }

// Wanted implements kept.Host.
func (h host) Wanted() bool { return h.c.wanted.Load() }

// Unwanted implements kept.Host.
func (h host) Unwanted() { h.c.wanted.Store(false) }

// Dial implements kept.Host.
func (h host) Dial(i int, ev stack.Events) (*stack.Leg, error) { return h.c.r.dialServer(h.c, i, ev) }

// Restore implements kept.Host.
func (h host) Restore(p stack.Params, r stack.Resume, ev stack.Events) (*stack.Leg, error) {
	return h.c.r.engine.Restore(p, r, ev)
}

// Serves implements kept.Host.
func (h host) Serves(i int) { h.c.servedBy(h.c.svc.Pool.Addr(i)) }

// Abort implements kept.Host.
func (h host) Abort() { h.c.abort() }

// Ended implements kept.Host.
func (h host) Ended() { h.c.phase = phaseLingering }

// Done implements kept.Host.
func (h host) Done() {
	h.c.phase = phaseDone
	h.c.r.ended(h.c, false)
}
