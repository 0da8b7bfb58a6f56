package script

import (
	"sync"

	"lockstep/replication"
	"lockstep/replication/shell"
)

// queue is one direction of the sync link.
type queue struct {
	arrives func()     // there is something
	mu      sync.Mutex // a leaf
	b       []byte
}

// Send implements shell.Sender.
func (q *queue) Send(frames []byte) error {
	q.mu.Lock()
	q.b = append(q.b, frames...)
	q.mu.Unlock()
	q.arrives()
	return nil
}

func (q *queue) take() (b []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	b, q.b = q.b, nil
	return b
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.b)
}

// host implements shell.Host for the active: time goes on when a script says so.
type host struct{ j *Journal }

func (h host) Kick()                { h.j.nudge() }
func (host) Wake(replication.Nanos) {}
func (host) Heard(shell.News)       {}
func (host) MayTakeOver()           {}

// none is the world of a standby: it has no connections yet, and is run by each frame.
type none struct{}

func (none) Unprotect(replication.ConnID) {}
func (none) Unlogged(replication.ConnID)  {}
func (none) Opened(replication.ConnID)    {}
func (none) LegHeld(replication.ConnID)   {}
func (none) Decided(replication.Held)     {}
func (none) Permit(replication.Permit)    {}
func (none) Need(replication.Range)       {}
func (none) Adopt(replication.ConnID)     {}
func (none) Kick()                        {}
func (none) Wake(replication.Nanos)       {}
func (none) Heard(shell.News)             {}
func (none) MayTakeOver()                 {}
