package relay

import (
	"time"

	"lockstep/appliance/carry"
)

// Settings are what of a service can be changed while its connections run.
type Settings struct {
	MaxConns  int           // further clients' SYNs are dropped
	Idle      time.Duration // after which a connection is ended; 0: never
	Keepalive carry.Keepalive
	// Park is after how long a connection with which nothing is going on gives its endpoints back; 0: never.
	Park time.Duration
}

// Now are the settings that hold: those that the service was made with, until others have been given.
func (s *Service) Now() *Settings {
	if now := s.changed.Load(); now != nil {
		return now
	}
	return &s.Settings
}

// Change gives a service other settings: they hold for the connections that it has, too. None is ended because there are
// more than the new limit.
func (r *Relay) Change(s *Service, to Settings) {
	s.changed.Store(&to)
	soon := int64(r.now() + to.Keepalive.Idle)
	r.Each(func(c *Conn) {
		// A question that is due later than the new time says is asked by the new one.
		if due := c.alive.due.Load(); c.svc == s && due > soon {
			c.alive.due.CompareAndSwap(due, soon)
		}
	})
}
