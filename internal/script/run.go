package script

import (
	"fmt"
	"time"

	"lockstep/appliance/relay"
	"lockstep/replication"
)

// run is how a script is run.
type run struct {
	V6 bool
	// Before is the index of the step before which the standby takes over; -1: none.
	Before int
	// Settled lets everything come to rest before the takeover.
	Settled bool
	// Again is the index of the step before which another standby, which joins right
	// after the first takeover, takes over in its turn; 0: there is none.
	Again int
	// Park: the connection is parked before the step Before instead, if it is idle then. Nobody takes over
	// but as Again says, and before that it is parked if it is idle.
	Park bool
}

// player carries a script out.
type player struct {
	rig   *Rig
	conn  *Conn
	step  *Step
	plain bool
	// alone: there is no standby any more, and no takeover.
	alone bool
	// joined: a fresh standby has joined since the takeover.
	joined bool
	// parked: it was, and may have lost what had just come.
	parked bool
	// ended: the connection had come to its end before that: what is left of it is not
	// in the snapshot.
	ended bool
}

// play runs a script. The error, if any, tells step, state and trace.
func (s *script) play(how run) (err error) {
	o := s.Options
	o.V6 = how.V6
	if how.Park {
		tune := o.Tune
		o.Tune = func(s *relay.Service) {
			s.Park = time.Hour // what is parked at a takeover is so from the beginning
			if tune != nil {
				tune(s)
			}
		}
	}
	rig, err := New(o)
	if err != nil {
		return err
	}
	p := &player{rig: rig, plain: how.Before < 0, conn: rig.Dial(40000, 4_294_967_000, 1000)}
	defer func() {
		if cerr := rig.Close(); err == nil {
			err = cerr
		}
		if err == nil {
			err = rig.Err()
		}
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, rig.Trace())
		}
	}()
	for i := range s.Steps {
		p.step = &s.Steps[i]
		if i == how.Before {
			if how.Settled && !rig.Settle() {
				return p.fail("does not come to rest")
			}
			if err := p.before(&how); err != nil {
				return err
			}
		}
		if i == how.Again && i > how.Before && how.Again > 0 {
			if err := p.again(&how); err != nil {
				return err
			}
		}
		rig.mu.Lock()
		rig.tracef("--- %d: %s", p.step.Line, p.step.Text)
		rig.mu.Unlock()
		if err := p.play(p.step); err != nil {
			return err
		}
		if rig.broken() {
			return p.fail("violation")
		}
	}
	if how.Before == len(s.Steps) {
		if err := p.before(&how); err != nil {
			return err
		}
	}
	if how.Again == len(s.Steps) && how.Again > 0 {
		if err := p.again(&how); err != nil {
			return err
		}
	}
	rig.Settle()
	rig.checkShipped()
	return p.waits()
}

// waits checks that every connection that is left waits for something that comes.
func (p *player) waits() error {
	var idle []string
	if !p.rig.Wait(waitLimit, func() bool { idle = p.rig.gen.relay.WaitForNothing(); return len(idle) == 0 }, nil) {
		return p.fail("waits for nothing: %v", idle)
	}
	return nil
}

func (p *player) fail(format string, args ...any) error {
	p.rig.mu.Lock()
	state := fmt.Sprintf("%v %v", p.conn.Client, p.conn.Server)
	p.rig.mu.Unlock()
	var conns string
	p.rig.Relay().Describe(10, func(state string) { conns += "\n" + state })
	err := p.rig.Err()
	if err == nil {
		err = fmt.Errorf(format, args...)
	}
	return fmt.Errorf("line %d: %q: %w\n%s%s\ndrops %v", p.step.Line, p.step.Text, err, state, conns, p.rig.Engine().C.Drops())
}

// takeover lets the standby continue; the peers send again what they miss.
func (p *player) takeover() error {
	if p.rig.moved && !p.joined || p.alone {
		return nil // nobody is left
	}
	if p.joined {
		if err := p.wait(p.rig.InSync, nil); err != nil {
			return err
		}
		if st := p.rig.Journal().Active(); st.Unprotected > 0 && p.rig.o.Limits.MaxHeldPerStream > 0 {
			return nil // beyond the script's limit: it would be lost
		}
		if open, _, _ := p.rig.Relay().Counts(); open == 0 && p.ended {
			return nil
		}
	}
	if err := p.rig.Takeover(); err != nil {
		return p.fail("%w", err)
	}
	p.joined = false
	p.retransmit()
	return nil
}

// rejoin lets a fresh standby join after a takeover, and waits until it is in sync if
// the script goes on only then.
func (p *player) rejoin(wait bool) error {
	if !p.rig.moved || p.joined || p.alone {
		return nil // there is a standby, or must be none
	}
	if err := p.rig.Rejoin(); err != nil {
		return p.fail("%w", err)
	}
	p.joined = true
	p.rig.mu.Lock()
	open, _, _ := p.rig.gen.relay.Counts()
	p.ended = open == 0 && p.conn.Client.state == peerFinished
	p.rig.mu.Unlock()
	if wait {
		return p.wait(p.rig.InSync, nil)
	}
	return nil
}

func (p *player) retransmit() {
	p.rig.mu.Lock()
	p.conn.Client.retransmit()
	p.conn.Server.retransmit()
	p.rig.mu.Unlock()
}

func (p *player) peer(side string) *Peer {
	if side == "c" {
		return p.conn.Client
	}
	return p.conn.Server
}

// wait waits for cond; after a takeover the peers retransmit meanwhile.
func (p *player) wait(cond func() bool, every func()) error {
	if (p.rig.moved || p.parked) && every == nil {
		every = func() { p.conn.Client.retransmit(); p.conn.Server.retransmit() }
	}
	if !p.rig.Wait(waitLimit, cond, every) {
		return p.fail("does not happen")
	}
	return nil
}

func (p *player) play(st *Step) error {
	switch st.Verb {
	case "send":
		return p.send(p.peer(st.Side), st.Out)
	case "expect":
		return p.expect(p.peer(st.Side), &st.Want)
	case "exact":
		return p.exact(p.peer(st.Side), &st.Want)
	case "mute":
		p.rig.mu.Lock()
		p.peer(st.Side).mute = true
		p.rig.mu.Unlock()
	case "forge":
		p.forge(p.peer(st.Side), st.Out)
	case "dropped":
		if p.plain {
			return p.wait(func() bool { return p.rig.Engine().C.Drops()[st.Arg] > 0 }, nil)
		}
	case "handshake":
		return p.handshake(st)
	case "reopen":
		p.rig.mu.Lock()
		p.conn.Client.reset()
		p.conn.Client.isn = st.N
		p.conn.Server.await, p.conn.Server.mayReset = true, true
		p.rig.mu.Unlock()
	case "sync":
		return p.sync(st.Arg)
	case "advance":
		p.rig.Journal().Advance(replication.Nanos(st.Span))
	case "tick":
		p.retransmit()
	case "settle":
		if !p.rig.Settle() {
			return p.fail("does not come to rest")
		}
	case "held":
		return p.wait(func() bool {
			held, ok := p.rig.Journal().Standby()
			return !ok || held.HeldBytes >= uint64(st.N)
		}, nil)
	case "takeover":
		return p.takeover()
	case "rejoin":
		return p.rejoin(true)
	case "gone":
		return p.gone()
	}
	return nil
}

// sync is what becomes of what waits for the standby.
func (p *player) sync(what string) error {
	j := p.rig.Journal()
	switch what {
	case "hold":
		// After a takeover the sync link is as it is: nothing can be said in
		// advance of what waits for it.
		j.Hold(!p.rig.moved)
	case "auto":
		j.Hold(false)
	case "lost":
		if !p.rig.moved {
			j.Lose()
			p.alone = true
		}
	case "deliver", "confirm":
		if p.rig.moved {
			break
		}
		if err := p.wait(func() bool { return j.waits(what == "confirm") }, nil); err != nil {
			return err
		}
		if what == "deliver" {
			j.Deliver()
		} else {
			j.deliverAndConfirm()
		}
	}
	return nil
}

// send waits, after a takeover, until the peer is where the script believes it:
// a server whose dial was lost gets another one.
func (p *player) send(to *Peer, o Out) error {
	if err := p.wait(func() bool {
		return !to.await || to.state == peerIdle && p.conn.Client.state == peerDead
	}, nil); err != nil {
		return err
	}
	p.rig.mu.Lock()
	to.send(o, true)
	p.rig.mu.Unlock()
	return nil
}

// forge injects a segment that somebody else makes in the peer's name. It is not
// sent again; what must follow is provoked again by a keepalive probe.
func (p *player) forge(as *Peer, o Out) {
	ack, opts := as.State().Received, NoOpts
	if o.Ack != Next {
		ack = o.Ack
	}
	p.rig.mu.Lock()
	payload := as.payload(o.Seq, o.Len, true)
	if o.Opts != nil && as.usesTS() {
		opts = *o.Opts
		opts.TSVal += as.tsSent
		opts.TSEcr = as.tsMax
	}
	p.rig.mu.Unlock()
	s := as.Forged(o.Flags, o.Seq, ack, 1000, opts, payload)
	p.rig.mu.Lock()
	as.mark = len(as.log)
	p.rig.tracef("%s> (forged) %s", as.name, s)
	p.rig.inject(s.Encode())
	p.rig.mu.Unlock()
}

func (p *player) expect(at *Peer, w *Want) error {
	if w.Flags&RST != 0 {
		p.rig.mu.Lock()
		at.mayReset = true
		p.rig.mu.Unlock()
	}
	// A RST that is lost with the appliance that sent it, or before the peer believed
	// it, is sent by nobody again: the peer's keepalive finds that out (RFC 1122, 4.2.3.6).
	var every func()
	if (w.Again || w.Flags&RST != 0) && (p.rig.moved || p.parked) {
		every = func() {
			at.retransmit()
			at.far.retransmit()
			if n := len(at.sent); w.Again && n > 0 {
				at.send(at.sent[n-1], false)
			}
			if !at.server && at.state == peerOpening && at.rcv > 0 { // a server is not asked before
				at.send(Out{Flags: ACK, Seq: Next, Ack: 1, Win: Next}, true)
			}
			if at.state == peerOpen && at.nxt > 1 {
				at.send(Out{Flags: ACK, Seq: at.nxt - 1, Ack: Next, Win: Next}, false)
			}
		}
	}
	if err := p.wait(func() bool { return at.shows(w) }, every); err != nil {
		return err
	}
	p.rig.mu.Lock()
	defer p.rig.mu.Unlock()
	if !p.rig.moved && w.Ack != Next && w.Flags&SYN == 0 && at.una != w.Ack {
		return fmt.Errorf("line %d: %q: ACK is %d already", p.step.Line, p.step.Text, at.una)
	}
	if w.Alt || w.To > w.From {
		for n := w.From; n < w.To; n++ {
			if at.got[n-1] != at.far.byte(n-1, w.Alt) {
				return fmt.Errorf("line %d: %q: byte %d is of the other pattern", p.step.Line, p.step.Text, n)
			}
		}
	}
	return nil
}

// shows reports whether the effect can be seen. Rig.mu is held.
func (p *Peer) shows(w *Want) bool {
	log := p.log
	if w.Again {
		log = p.log[p.mark:]
	}
	some := func(f func(e *seen) bool) bool {
		for i := range log {
			if f(&log[i]) {
				return true
			}
		}
		return false
	}
	switch {
	case w.Flags&RST != 0:
		return p.resets > 0
	case w.Flags&SYN != 0:
		if !some(func(e *seen) bool { return e.flags&SYN != 0 }) || p.rcv == 0 || p.await {
			return false
		}
		if o := w.Opts; o != nil {
			t := p.their
			if (o.MSS != 0 && o.MSS != t.MSS && o.MSS != t.MSS+20) || o.SACKOK != t.SACKOK || o.TS != t.TS || (o.WScale >= 0) != (t.WScale >= 0) {
				return false
			}
		}
		return true
	case w.Flags&FIN != 0 && p.theirFin == 0:
		return false
	case w.Flags&FIN != 0 && w.To != Next && p.theirFin != w.To:
		return false
	case w.To > w.From && p.rcv < w.To:
		return false
	case w.Ack != Next && p.una < w.Ack:
		return false
	case w.Edge != Next && p.edge < w.Edge:
		return false
	case w.Win != Next && !p.rig.moved && (len(p.log) == 0 || int(p.log[len(p.log)-1].win) != w.Win):
		return false
	case w.Again && w.To > w.From && p.acked >= w.To:
		// What the script makes it miss it has acknowledged since (catchUp).
	case w.Again:
		return some(func(e *seen) bool {
			return (w.Ack == Next || e.ack >= w.Ack) && (w.To == Next || w.To == w.From || e.seq <= w.From && e.seq+int64(e.n) > w.From) &&
				(w.Flags&FIN == 0 || e.flags&FIN != 0)
		})
	}
	for _, b := range w.SACK {
		if p.una < b[1] && !some(func(e *seen) bool {
			for _, r := range e.sack {
				if r == b {
					return true
				}
			}
			return false
		}) {
			return false
		}
	}
	return true
}

// exact waits until things are as wanted, and then until everything has come to
// rest: they must still be so. After a takeover gates are open, so that there is
// nothing to compare.
func (p *player) exact(at *Peer, w *Want) error {
	if p.rig.moved {
		return nil
	}
	differs := ""
	same := func() bool {
		differs = ""
		for _, c := range []struct {
			name      string
			want, got int64
		}{
			{"ack", w.Ack, at.una}, {"rcv", w.Rcv, at.rcv}, {"edge", w.Edge, at.edge},
			{"resets", int64(w.Resets), int64(at.resets)}, {"packets", int64(w.Packets), int64(len(at.log) - at.mark)},
		} {
			if c.want != Next && c.want != c.got {
				differs = fmt.Sprintf("%s is %d", c.name, c.got)
			}
		}
		return differs == ""
	}
	if !p.rig.Wait(waitLimit, same, nil) {
		return p.fail("%s", differs)
	}
	if !p.rig.Settle() {
		return p.fail("does not come to rest")
	}
	p.rig.mu.Lock()
	ok := same()
	p.rig.mu.Unlock()
	if !ok {
		return p.fail("%s, when all is quiet", differs)
	}
	return nil
}

// handshake is Conn.Handshake in a run that a takeover may have hit before.
func (p *player) handshake(st *Step) error {
	if err := p.conn.Handshake(st.Opts[0], st.Opts[1]); err != nil {
		return p.fail("%w", err)
	}
	return nil
}

// gone waits until the appliance and the standby have forgotten everything but
// tombstones.
func (p *player) gone() error {
	return p.wait(func() bool {
		e, r := p.rig.gen.engine, p.rig.gen.relay
		open, _, _ := r.Counts()
		st, ok := p.rig.gen.journal.Standby()
		return e.Legs() == e.Tombstones() && e.HalfOpen() == 0 && open == 0 && (!ok || st.Connections == 0)
	}, nil)
}
