package shell

import "lockstep/replication"

// Effects is what a shell does to connections, as Core.Ready wants it: see
// replication.Ready for when, and for the order. A connection may have ended meanwhile;
// it is ignored then.
type Effects interface {
	// Unprotect opens the gates of a connection entirely.
	Unprotect(id replication.ConnID)
	// Unlogged tells that the log of a connection was given up.
	Unlogged(id replication.ConnID)
	// Opened lets the SYN-ACK leave for the client, and the first request byte for the
	// server.
	Opened(id replication.ConnID)
	// LegHeld tells that the standby holds the newest server leg that it was told of.
	LegHeld(id replication.ConnID)
	// Decided tells which decisions may be told to the servers that wait for them.
	Decided(h replication.Held)
	// Permit raises the gate of one stream.
	Permit(p replication.Permit)
	// Need asks for bytes of a response, to be handed in with Shell.Data.
	Need(r replication.Range)
	// Adopt asks for a connection that runs already, to be answered with Shell.Adopt.
	Adopt(id replication.ConnID)
}

// carryOut does what r wants, in its order: what may hold back nothing any more, then what
// may begin, then how far what runs may go. The order matters where one connection is
// named twice: one that has lost its old standby and is wanted for a new one has its gates
// opened and then, in answer to Adopt, closed; one that is opened gets its first permit
// when it is there.
func carryOut(r *replication.Ready, fx Effects) {
	for _, id := range r.Unprotected {
		fx.Unprotect(id)
	}
	for _, id := range r.Unlogged {
		fx.Unlogged(id)
	}
	for _, id := range r.Opened {
		fx.Opened(id)
	}
	for _, id := range r.Legs {
		fx.LegHeld(id)
	}
	for _, h := range r.Held {
		fx.Decided(h)
	}
	for _, p := range r.Permits {
		fx.Permit(p)
	}
	for _, n := range r.Need {
		fx.Need(n)
	}
	for _, id := range r.Adopt {
		fx.Adopt(id)
	}
}

// Host is who drives a shell. Its methods must not call the shell, but for MayTakeOver
// and Heard, which may look at it (Look).
type Host interface {
	// Kick asks for a call of Run, soon, on a goroutine that holds no lock of a leg.
	Kick()
	// Wake asks for a call of Tick at that time: it is earlier than the one that was asked
	// for before.
	Wake(at replication.Nanos)
	// Heard tells of a frame of the peer that the core has taken, before what follows from
	// it is done.
	Heard(News)
	// MayTakeOver is called once in a session, before the frame leaves from which on the
	// standby may take over.
	MayTakeOver()
}

// News is what a frame has brought beside what Ready says.
type News struct {
	Late    replication.Nanos // the frame came so much later than a heartbeat is due
	InSync  bool              // the standby came in sync, or fell out of it
	Fitness bool              // the peer has said whether it could serve
	Orders  bool              // the peer has said which orders it goes by
}

// Sender is the sync session.
type Sender interface {
	// Send sends whole frames, in the order of its calls. The slice is valid during the
	// call only. After an error nothing more is sent.
	Send(frames []byte) error
}
