package shell_test

import (
	"fmt"

	"lockstep/replication"
	"lockstep/replication/shell"
	"lockstep/replication/wire"
)

// appliance is what a shell needs around it: it carries out what the core wants, and takes frames
// to the peer. A program would have a goroutine for Run, a timer for Tick and a connection.
type appliance struct {
	name   string
	shell  *shell.Shell
	kicked bool
	frames [][]byte // on their way
}

func newAppliance(name string, role replication.Role) (*appliance, error) {
	core := replication.New(replication.Limits{})
	if err := core.SetRole(role, 1); err != nil {
		return nil, err
	}
	a := &appliance{name: name}
	a.shell = shell.New(core, a, a)
	return a, nil
}

func (a *appliance) say(what string, id replication.ConnID) { fmt.Println(a.name+":", what, id) }

// What follows implements shell.Effects.

func (a *appliance) Opened(id replication.ConnID)    { a.say("the client may have its SYN-ACK:", id) }
func (a *appliance) Unprotect(id replication.ConnID) { a.say("nobody is waited for any more:", id) }
func (a *appliance) Unlogged(id replication.ConnID)  { a.say("its log is given up:", id) }
func (a *appliance) Decided(h replication.Held) {
	a.say("determinants may be told, of life", replication.ConnID(h.Life))
}
func (a *appliance) LegHeld(id replication.ConnID) { a.say("its server's leg is safe:", id) }
func (a *appliance) Adopt(id replication.ConnID)   { a.say("hand it in:", id) }
func (a *appliance) Need(r replication.Range)      { a.say("hand in bytes of", r.ID) }
func (a *appliance) Permit(p replication.Permit) {
	a.say(fmt.Sprintf("its %s may be acknowledged up to %d:", p.Stream, p.Off), p.ID)
}

// What follows implements shell.Host.

func (a *appliance) Kick()                  { a.kicked = true }
func (a *appliance) Wake(replication.Nanos) {}
func (a *appliance) Heard(n shell.News) {
	if n.InSync {
		fmt.Println(a.name + ": in sync")
	}
}
func (a *appliance) MayTakeOver() { fmt.Println(a.name + ": from now on the standby may take over") }

// Send implements shell.Sender: whole frames, of which there may be several.
func (a *appliance) Send(frames []byte) error {
	for len(frames) > 0 {
		n, err := wire.FrameLen(frames)
		if err != nil {
			return err
		}
		a.frames = append(a.frames, append([]byte(nil), frames[:n]...))
		frames = frames[n:]
	}
	return nil
}

// exchange goes on until neither has anything to do.
func exchange(now replication.Nanos, a, b *appliance) error {
	for a.kicked || b.kicked || len(a.frames)+len(b.frames) > 0 {
		for _, e := range []struct{ from, to *appliance }{{a, b}, {b, a}} {
			if e.from.kicked {
				e.from.kicked = false
				e.from.shell.Run(now)
			}
			frames := e.from.frames
			e.from.frames = nil
			for _, f := range frames {
				if err := e.to.shell.Step(now, f); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// A shell drives a core: what is told to it is sent when it may be, and what the core wants of its
// appliance is asked for in the one right order.
func Example() {
	active, err := newAppliance("active", replication.RoleActive)
	if err != nil {
		panic(err)
	}
	standby, err := newAppliance("standby", replication.RoleStandby)
	if err != nil {
		panic(err)
	}
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	must(active.shell.Begin(0, wire.Version, active))
	must(standby.shell.Begin(0, wire.Version, standby))
	must(exchange(0, active, standby))

	leg := replication.LegRecord{MSS: 1460, OurMSS: 1460, PeerWS: 7, OurWS: 7}
	must(active.shell.Open(0, &replication.Record{ID: 1, Service: "web", Client: leg, Server: leg}))
	must(exchange(0, active, standby))
	must(active.shell.Data(0, 1, replication.Request, 0, [][]byte{[]byte("GET /")}, false))
	must(exchange(0, active, standby))

	active.shell.With(0, (*replication.Core).PeerLost)
	// Output:
	// active: from now on the standby may take over
	// standby: in sync
	// active: in sync
	// active: the client may have its SYN-ACK: 1
	// active: its request may be acknowledged up to 5: 1
	// active: nobody is waited for any more: 1
}
