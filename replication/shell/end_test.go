package shell

import (
	"fmt"
	"testing"

	"lockstep/replication"
	"lockstep/replication/wire"
)

// end is one appliance as a test has it: it notes what its shell asks for and does nothing
// by itself.
type end struct {
	core  *replication.Core
	shell *Shell
	peer  *end

	kicked   bool
	wake     replication.Nanos // of the last Wake
	mayTake  int               // calls of MayTakeOver
	sent     [][]byte          // not delivered yet
	news     []News
	onHeard  func()
	effects  []string
	closed   bool                          // Send fails
	legs     map[replication.ConnID]uint32 // ISS of those that a standby was told of
	onEffect func(kind string, id replication.ConnID, s replication.Stream, off uint64)
}

func newEnd(t testing.TB, role replication.Role) *end {
	e := &end{core: replication.New(replication.Limits{}), legs: map[replication.ConnID]uint32{}}
	if err := e.core.SetRole(role, 1); err != nil {
		t.Fatal(err)
	}
	e.shell = New(e.core, e, e)
	return e
}

// begin begins a session, as seen at both ends.
func begin(t testing.TB, now replication.Nanos, a, b *end) {
	t.Helper()
	a.peer, b.peer = b, a
	for _, e := range []*end{a, b} {
		if err := e.shell.Begin(now, wire.Version, e); err != nil {
			t.Fatal(err)
		}
	}
}

func step(t testing.TB, e *end, now replication.Nanos, frame []byte) {
	t.Helper()
	e.noteLegs(t, frame)
	if err := e.shell.Step(now, frame); err != nil {
		t.Fatal(err)
	}
}

func (e *end) noteLegs(t testing.TB, frame []byte) {
	h, payload, err := wire.Decode(frame)
	if err != nil || h.Type != wire.TypeBatch {
		return
	}
	var n wire.Entry
	for es := wire.NewEntries(payload); ; {
		more, err := es.Next(&n)
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			return
		}
		if n.Kind == wire.EntryLeg {
			e.legs[n.ID] = n.Record.Server.ISS
		}
	}
}

// exchange delivers frames and does what was asked for until nothing is left to do.
func exchange(t testing.TB, now replication.Nanos, a, b *end) {
	t.Helper()
	for moved := true; moved; {
		moved = false
		for _, e := range []*end{a, b} {
			if e.kicked {
				e.kicked, moved = false, true
				e.shell.Run(now)
			}
			for len(e.sent) > 0 {
				frame := e.sent[0]
				e.sent, moved = e.sent[1:], true
				step(t, e.peer, now, frame)
			}
		}
	}
	for _, e := range []*end{a, b} {
		if e.core.Pending() || e.core.Flushable() {
			t.Errorf("nobody was asked to do what is left: ready %v, to be sent %v", e.core.Pending(), e.core.Flushable())
		}
	}
}

func (e *end) note(kind string, id replication.ConnID, s replication.Stream, off uint64) {
	e.shell.Look(func(*replication.Core) {}) // the core's lock is free
	e.effects = append(e.effects, fmt.Sprint(kind, " ", id))
	if e.onEffect != nil {
		e.onEffect(kind, id, s, off)
	}
}

func (e *end) Unprotect(id replication.ConnID) { e.note("unprotect", id, 0, 0) }
func (e *end) Unlogged(id replication.ConnID)  { e.note("unlogged", id, 0, 0) }
func (e *end) Opened(id replication.ConnID)    { e.note("opened", id, 0, 0) }
func (e *end) Decided(h replication.Held)      { e.note("decided", replication.ConnID(h.Life), 0, h.Below) }
func (e *end) LegHeld(id replication.ConnID)   { e.note("leg", id, 0, 0) }
func (e *end) Adopt(id replication.ConnID)     { e.note("adopt", id, 0, 0) }
func (e *end) Permit(p replication.Permit)     { e.note("permit", p.ID, p.Stream, p.Off) }
func (e *end) Need(r replication.Range)        { e.note("need", r.ID, r.Stream, r.To) }
func (e *end) Kick()                           { e.kicked = true }
func (e *end) Wake(at replication.Nanos)       { e.wake = at }
func (e *end) Heard(n News) {
	e.news = append(e.news, n)
	if e.onHeard != nil {
		e.onHeard()
	}
}

func (e *end) MayTakeOver() {
	e.mayTake++
	e.shell.Look(func(*replication.Core) {})
}

func (e *end) Send(frames []byte) error {
	if e.closed {
		return errClosed
	}
	for len(frames) > 0 {
		n, err := wire.FrameLen(frames)
		if err != nil {
			return err
		}
		e.sent = append(e.sent, append([]byte(nil), frames[:n]...))
		frames = frames[n:]
	}
	return nil
}

const errClosed = replication.Error("closed")

func record(id replication.ConnID, logged bool) *replication.Record {
	leg := replication.LegRecord{MSS: 1460, PeerWS: -1, OurWS: -1}
	return &replication.Record{ID: id, Service: "web", Client: leg, Server: leg, Logged: logged}
}
