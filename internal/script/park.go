package script

// before does what is to happen before the step Before.
func (p *player) before(how *run) error {
	if how.Park {
		return p.park()
	}
	if err := p.takeover(); err != nil || how.Again == 0 {
		return err
	}
	return p.rejoin(false)
}

// again is what is to happen before the step Again.
func (p *player) again(how *run) error {
	if how.Park && !p.rig.moved && !p.alone {
		if err := p.park(); err != nil {
			return err
		}
	}
	return p.takeover()
}

// park lets everything come to rest, and parks the connection if it is idle. However short a time ago something has
// come: what netstack has not looked at yet is lost then, as on a network, and has to be sent again.
func (p *player) park() error {
	p.rig.mu.Lock()
	c, s := p.conn.Client, p.conn.Server
	idle := c.una == c.nxt && s.una == s.nxt && c.acked == s.nxt && s.acked == c.nxt
	p.rig.mu.Unlock()
	if !idle {
		return nil // a sender's time-out would strike while everything comes to rest
	}
	if !p.rig.Settle() {
		return p.fail("does not come to rest")
	}
	p.rig.Relay().ParkIdle()
	err := p.wait(func() bool { return !p.rig.Relay().Parking() }, func() {})
	p.parked = p.parked || p.rig.Engine().C.Parked.Load() > 0
	return err
}
