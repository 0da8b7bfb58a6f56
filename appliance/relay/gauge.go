package relay

import "lockstep/appliance/kept"

// Gauge returns what the connections of s have that outlive their servers.
func (r *Relay) Gauge(s *Service) (g kept.Gauge) {
	r.Each(func(c *Conn) {
		if c.svc == s && c.passed == nil && c.flags.Opened.Load() {
			c.carrier.AddTo(&g)
		}
	})
	return g
}

// orphan reports whether c has no server, and needs one.
func (c *Conn) orphan() bool {
	var g kept.Gauge
	if c.begun.Load() {
		c.carrier.AddTo(&g)
	}
	return g.Orphans > 0
}
