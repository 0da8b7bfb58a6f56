package stack

import "time"

// SweepAfter lets the janitor do what it would do d from now.
func (e *Engine) SweepAfter(d time.Duration) { e.sweep(e.now() + d) }

// TombstoneLife is how long a tombstone answers.
const TombstoneLife = tombstoneLife

// Endpoints counts netstack's endpoints, those on their way out included.
func (e *Engine) Endpoints() int {
	return len(e.stack.RegisteredEndpoints()) + len(e.stack.CleanupEndpoints())
}
