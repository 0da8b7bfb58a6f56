package relay

import "lockstep/appliance/kept"

// Gauge returns what the connections of s have that outlive their servers.
func (r *Relay) Gauge(s *Service) (g kept.Gauge) {
	r.Each(func(c *Conn) {
		if c.svc == s && c.flags.Opened.Load() {
			c.addTo(&g)
		}
	})
	return g
}

// addTo adds c, if it outlives its servers and the journal knows it.
func (c *Conn) addTo(g *kept.Gauge) {
	if !c.begun.Load() {
		return // the carrier may be changed still
	}
	if k, ok := c.carrier.(outliving); ok {
		k.AddTo(g)
	}
}

// orphan reports whether c has no server, and needs one.
func (c *Conn) orphan() bool {
	var g kept.Gauge
	c.addTo(&g)
	return g.Orphans > 0
}
