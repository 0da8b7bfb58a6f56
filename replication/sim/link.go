package sim

import (
	"lockstep/replication"
	"lockstep/replication/wire"
)

// session is one life of the sync link: an ordered byte stream each way.
type session struct {
	w       *world
	closed  bool
	flipped bool // a bit was flipped: an error is expected
	pipes   [2]*pipe
	serves  *tenure // no witness: the active's
	left    [2]bool // by node: it has closed its end, or knows that the other has
}

// lengthAt is the byte of a frame's length that counts its 256ths (package wire).
const lengthAt = 26

// pipe is one direction.
type pipe struct {
	s        *session
	from, to *node
	life     int    // of the receiver
	last     nanos  // when the newest chunk arrives
	inFlight []byte // written, not arrived
	budget   int    // after a cut: bytes that still arrive; -1: no cut
	buf      []byte // arrived, not a whole frame yet
}

func newSession(w *world, active, standby *node) *session {
	s := &session{w: w}
	s.connect(active, standby)
	w.logf("session %s -> %s", active.name, standby.name)
	active.session, standby.session = s, s
	if err := standby.core.SetRole(replication.RoleStandby, active.core.Epoch()); err != nil {
		w.failf("%s joins: %v", standby.name, err)
	}
	for _, n := range []*node{active, standby} {
		n.core.SetClock(n.now(), n.clock())
		if err := n.sh.Begin(n.now(), w.plan.version, sender{n, s}); err != nil {
			w.failf("%s joins: %v", n.name, err)
		}
		n.pump()
	}
	return s
}

func (s *session) connect(a, b *node) {
	s.pipes = [2]*pipe{{s: s, from: a, to: b, life: b.life, budget: -1}, {s: s, from: b, to: a, life: a.life, budget: -1}}
}

// send writes what n has flushed.
func (s *session) send(from *node, b []byte) {
	if s.closed {
		return
	}
	p := s.pipes[0]
	if p.to == from {
		p = s.pipes[1]
	}
	b = append([]byte(nil), b...)
	if s.w.chance(s.w.plan.flip) {
		at := s.w.rng.IntN(len(b))
		if s.w.chance(0.2) {
			at = lengthAt // the receiver waits for what never comes
		}
		b[unsealed(b, at)] ^= 1 << s.w.rng.IntN(8)
		s.flipped = true
		s.w.seen.Flipped++
		s.w.felt(0) // it ends the session as a cut does
	}
	p.inFlight = append(p.inFlight, b...)
	// It arrives in up to two pieces.
	cut := len(b)
	if s.w.chance(0.3) {
		cut = s.w.rng.IntN(len(b) + 1)
	}
	p.arriveLater(cut)
	p.arriveLater(len(b) - cut)
}

// unsealed is a place in b, whole frames, that is at or instead of it, at which nothing but a frame's own
// sum finds a flipped bit. A batch's payload is TLS' business from SealedVersion on: a session whose record
// was changed ends before a byte of it is seen.
func unsealed(b []byte, at int) int {
	for off := 0; ; {
		f := b[off:]
		size, err := wire.FrameLen(f)
		if err != nil || at < off+size {
			if err == nil && f[4] >= wire.SealedVersion && wire.Type(f[5]) == wire.TypeBatch {
				return off + (at-off)%wire.HeaderLen
			}
			return at
		}
		off += size
	}
}

func (p *pipe) arriveLater(n int) {
	if n == 0 {
		return
	}
	w := p.s.w
	at := max(p.last, w.now+w.plan.syncDelay+w.between(0, w.plan.syncJitter))
	p.last = at
	w.after(at-w.now, func() { p.arrive(n) })
}

func (p *pipe) arrive(n int) {
	w := p.s.w
	if w.driven != nil && p.from.dark {
		p.budget = 0 // a host without power sends nothing again, nor does it when it is back
	}
	if w.driven != nil && p.budget != 0 && w.blocked(p.from.machine, p.to.machine) {
		w.after(w.between(millis, 20*millis), func() { p.arrive(n) }) // sent again
		return
	}
	if p.budget >= 0 {
		n = min(n, p.budget)
		p.budget -= n
	}
	n = min(n, len(p.inFlight)) // what was cut off is gone
	p.buf = append(p.buf, p.inFlight[:n]...)
	p.inFlight = p.inFlight[n:]
	p.to.run(p.life, p.read)
}

// read hands the receiver what has arrived, if it serves this session.
func (p *pipe) read() {
	if p.to.session != p.s || p.s.left[p.to.id] {
		return
	}
	for len(p.buf) >= wire.HeaderLen {
		size, err := wire.FrameLen(p.buf)
		if err == nil && size > len(p.buf) {
			break
		}
		if err == nil {
			err = p.to.step(p.buf[:size])
		}
		if err != nil {
			if !p.s.flipped {
				p.s.w.failf("%s refuses a frame: %v", p.to.name, err)
			}
			p.s.w.logf("%s ends the session: %v", p.to.name, err)
			if p.to.driver == nil {
				p.s.cut()
			} else {
				p.to.shell.sessionLost(p.s)
			}
			p.budget, p.buf = 0, nil // it reads no further
			return
		}
		p.buf = p.buf[size:]
	}
	p.to.pump()
}

// cut ends the session. Of what was on its way, some prefix still arrives. Both
// ends learn of it some time later, in any order.
func (s *session) cut() {
	if s.closed {
		return
	}
	s.closed = true
	for _, p := range s.pipes {
		p.budget = 0
		if n := len(p.inFlight); n > 0 && s.w.chance(0.7) {
			p.budget = s.w.rng.IntN(n + 1)
		}
		to := p.to
		s.w.after(max(p.last-s.w.now, 0)+s.w.between(0, 30*millis), func() { to.sessionClosed(s) })
	}
	s.w.session = nil
	s.w.connectSoon()
}
