package relay

import (
	"math"
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
	Age, Idle time.Duration // since it was begun, or taken over, here; since it was last run
	WaitsFor  string        // empty: it is about to be run
	Text      string        // all that there is to say, for support; of Find's
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
	return len(r.eachAtRest(math.MaxInt, viewWait, func(c *Conn) { f(c.view()) }))
}

// Find is the newest connection of a client's address, with its text; ok is false if there is none.
func (r *Relay) Find(client netip.AddrPort) (v View, ok bool) {
	r.eachAtRest(math.MaxInt, viewWait, func(c *Conn) {
		if _, from := c.ends(); from == client && (!ok || c.ID > v.ID) {
			v, ok = c.view(), true
			v.Text = c.text()
		}
	})
	return v, ok
}

// view is of a connection that the caller has in its worker's place.
func (c *Conn) view() View {
	v := View{ID: c.ID, Service: c.svc.Name, Path: pathEnded, Phase: phaseNames[c.phase], Protected: c.flags.Opened.Load() && c.flags.Protected.Load()}
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
	return v
}
