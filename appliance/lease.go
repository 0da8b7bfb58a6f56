package appliance

import (
	"sync"
	"time"

	"lockstep/replication/roles"
)

// lease lets the engine speak while the voters' lease lasts, if it is for the epoch
// that the role loop serves: the voter learns of a claim first. mu is held while the
// engine is told, which takes no lock.
type lease struct {
	mu     sync.Mutex
	tied   roles.Lease[time.Time] // guarded by mu
	engine func(until time.Time)
}

// grant is the voter's OnLease.
func (l *lease) grant(epoch uint64, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tied.Grant(epoch, until)
	l.engine(l.tied.Until())
}

// lasts reports whether the voters let us speak for epoch now.
func (l *lease) lasts(epoch uint64, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return now.Before(l.tied.Of(epoch))
}

// serve is the role loop's: the connections are those of epoch from now on.
func (l *lease) serve(epoch uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tied.Serve(epoch)
	l.engine(l.tied.Until())
}
