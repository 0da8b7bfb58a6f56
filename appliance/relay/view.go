package relay

import (
	"net/netip"
	"time"

	"lockstep/replication"
)

// View is how a connection stands, for an operator.
type View struct {
	ID      replication.ConnID
	Service string
	Client  netip.AddrPort
	Listen  netip.AddrPort // the service's address that the client has dialled
	Server  netip.AddrPort // zero: it has none at present
	Path    string         // see the constants
	Phase   string         // see the constants
	// Protected: the standby holds its record, and what it must not lose.
	Protected bool
	Age, Idle time.Duration // since it was begun, or taken over, here; since it was last run, or a packet passed
	WaitsFor  string        // empty: it is being run
	Text      string        // all that there is to say, for support
}

// What View.Path can be.
const (
	pathPassed = "passed on" // from end to end, nothing of it is ended here
	pathEnded  = "ended"     // here, at both sides
	pathParked = "parked"    // ended, and idle: without endpoints
)

// phaseNames are what View.Phase can be.
var phaseNames = [...]string{
	phaseDialing: "dialling", phaseOpening: "opening", phaseAccepting: "accepting", phaseOpen: "open", phaseLingering: "lingering", phaseDone: "over",
}

// viewWait bounds how long connections that are being run are waited for, all together.
const viewWait = 200 * time.Millisecond

// Views calls f for each connection, in no order. Nothing is woken by it. busy is how many a worker did not let go of: these are not told.
func (r *Relay) Views(f func(View)) (busy int) {
	var again []*Conn
	r.Each(func(c *Conn) {
		if v, ok := c.view(); ok {
			f(v)
		} else {
			again = append(again, c)
		}
	})
	for end := time.Now().Add(viewWait); len(again) > 0 && time.Now().Before(end); {
		time.Sleep(describeAgain)
		left := again[:0]
		for _, c := range again {
			if v, ok := c.view(); ok {
				f(v)
			} else {
				left = append(left, c)
			}
		}
		again = left
	}
	return len(again)
}

// Find is the newest connection of a client's address, with its text; ok is false if there is none.
func (r *Relay) Find(client netip.AddrPort) (v View, ok bool) {
	r.Views(func(one View) {
		if one.Client == client && (!ok || one.ID > v.ID) {
			v, ok = one, true
		}
	})
	if !ok {
		return v, false
	}
	if c := r.Lookup(v.ID); c != nil {
		if s, said := c.describe(); said {
			v.Text = s
		}
	}
	return v, true
}

// view reads a connection in its worker's place; ok is false while a worker has it, or is about to.
func (c *Conn) view() (v View, ok bool) {
	if !c.schedule.CompareAndSwap(schedIdle, schedRunning) {
		return v, false
	}
	defer c.r.sched.leave(c, false)
	v = View{ID: c.ID, Service: c.svc.Name, Path: pathEnded, Phase: phaseNames[c.phase], Protected: c.flags.Opened.Load() && c.flags.Protected.Load()}
	v.Listen, v.Client = c.ends()
	v.WaitsFor = c.waitsFor()
	now := c.r.now()
	v.Age, v.Idle = now-c.born, now-time.Duration(c.stepAt.Load())
	switch {
	case c.isPassed():
		v.Path, v.Server = pathPassed, c.passed.Addrs().Server
	case c.carrier != nil:
		v.Server = c.carrier.Server()
		if c.carrier.Parked() {
			v.Path = pathParked
		}
	}
	return v, true
}
