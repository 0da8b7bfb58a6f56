package relay

import (
	"time"

	"lockstep/appliance/carry"
)

// Settings are what of a service can be changed while its connections run.
type Settings struct {
	MaxConns  int
	Idle      time.Duration
	Keepalive carry.Keepalive
	Park      time.Duration
}

// Settings are the settings that hold now: those that the service was made with, until others have been given.
func (s *Service) Settings() *Settings {
	if now := s.settings.Load(); now != nil {
		return now
	}
	first := &Settings{MaxConns: s.MaxConns, Idle: s.Idle, Keepalive: s.Keepalive, Park: s.Park}
	if s.settings.CompareAndSwap(nil, first) {
		return first
	}
	return s.settings.Load()
}

// Change gives a service other settings: they hold for the connections that it has, too. None is ended because there are
// more than the new limit.
func (r *Relay) Change(s *Service, to Settings) {
	s.settings.Store(&to)
	soon := int64(r.now() + to.Keepalive.Idle)
	r.Each(func(c *Conn) {
		// A question that is due later than the new time says is asked by the new one.
		if due := c.alive.due.Load(); c.svc == s && due > soon {
			c.alive.due.CompareAndSwap(due, soon)
		}
	})
}
