package stack

import "net/netip"

// Connections that are passed on and not in the table yet: a takeover's rest, which somebody else keeps and makes
// when it is asked for.

// SetMissing lets make be asked for connections that are passed on and not in the table, by a flow of theirs: it puts
// them there and reports whether there were any. It is asked on the packet path. nil: nobody is.
func (e *Engine) SetMissing(make func(local, remote netip.AddrPort) bool) {
	if make == nil {
		e.missing.Store(nil)
		return
	}
	e.missing.Store(&make)
}

// passed returns the connection that is passed on and has the flow, be it in the table or to be put there.
func (e *Engine) passed(f *flow) splicedSide {
	// Asked for before the table is: whoever it says does not rest any more is in the table by then, and so is one
	// that is put there by another goroutine meanwhile.
	m := e.missing.Load()
	side := e.table.spliced(f)
	// A tombstone may have the flow of one that lives and rests, which takes its place: the segment is that one's.
	if m != nil && (side.Spliced == nil || side.Ended() != NotEnded) {
		(*m)(addrPort(f.local, f.localPort), addrPort(f.remote, f.remotePort))
		side = e.table.spliced(f)
	}
	return side
}

// wake lets whoever has the flow and is not in the table be put there.
func (e *Engine) wake(f *flow) bool {
	m := e.missing.Load()
	return m != nil && (*m)(addrPort(f.local, f.localPort), addrPort(f.remote, f.remotePort))
}

// ClaimPort takes a port of ours for a connection that is to be restored.
func (e *Engine) ClaimPort(local, server netip.AddrPort) {
	if e.ownPort(local) {
		e.ports.claim(&Params{Local: local, Remote: server})
	}
}

// UnclaimPort gives it back if the connection was not restored. Another one that is passed on, lives and has the flow
// keeps it.
func (e *Engine) UnclaimPort(local, server netip.AddrPort) {
	f := flowOf(local, server)
	if side := e.table.spliced(&f); side.Spliced != nil && side.ownPort.Load() {
		return
	}
	if e.ownPort(local) {
		e.ports.give(&Params{Local: local, Remote: server})
	}
}
