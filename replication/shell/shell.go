package shell

import (
	"sync"

	"lockstep/replication"
	"lockstep/replication/roles"
)

// Shell drives one core. Its methods may be called from any goroutine.
type Shell struct {
	fx   Effects
	host Host

	apply sync.Mutex // one Ready at a time, in order

	send   sync.Mutex // one frame after the other
	sender Sender     // nil: no session
	buf    []byte
	said   bool // Host.MayTakeOver was called in this session

	mu       sync.Mutex
	core     *replication.Core
	claimed  bool              // somebody is about to carry out what is ready
	due      replication.Nanos // of the next Tick
	inSync   bool              // as News has told
	silence  silence
	patience roles.Patience
	alone    *roles.AloneConfig // nil: with a witness
	period   replication.Nanos  // the peer says something at least so often
}

// New makes a shell around a core, which nobody else may change from now on.
func New(core *replication.Core, fx Effects, host Host) *Shell {
	return &Shell{core: core, fx: fx, host: host, due: replication.Never}
}

// Run does what follows from inputs: it carries out what is ready, then sends what may be
// sent.
func (s *Shell) Run(now replication.Nanos) {
	s.carry()
	s.flush()
	s.mu.Lock()
	at, earlier := s.rearm(now)
	s.mu.Unlock()
	if earlier {
		s.host.Wake(at)
	}
}

// carry carries out what the core has ready.
func (s *Shell) carry() {
	s.apply.Lock()
	defer s.apply.Unlock()
	s.mu.Lock()
	r := s.core.Ready() // valid until the next call, which waits for apply
	s.claimed = false
	s.mu.Unlock()
	carryOut(r, s.fx)
}

// flush sends what may be sent now.
func (s *Shell) flush() {
	s.send.Lock()
	defer s.send.Unlock()
	for s.sender != nil {
		s.mu.Lock()
		if !s.core.Flushable() {
			s.mu.Unlock()
			return
		}
		s.buf = s.core.Flush(s.buf[:0])
		may := s.core.SaidSynced()
		s.mu.Unlock()
		if may && !s.said {
			s.said = true
			s.host.MayTakeOver()
		}
		if len(s.buf) == 0 {
			return
		}
		if err := s.sender.Send(s.buf); err != nil {
			s.sender = nil // the session's reader tells of its end
			return
		}
	}
}

// follow tells, with mu held, whether Run has to be asked for. Whoever is told so asks.
func (s *Shell) follow() bool {
	if s.core.Flushable() {
		return true
	}
	if s.claimed || !s.core.Pending() {
		return false
	}
	s.claimed = true
	return true
}

// rearm tells, with mu held, whether Tick is due earlier than was asked for.
func (s *Shell) rearm(now replication.Nanos) (at replication.Nanos, earlier bool) {
	if at = s.core.NextTick(now); at != replication.Never {
		at = max(at, now+pause)
	}
	if earlier = at < s.due; earlier {
		s.due = at
	}
	return at, earlier
}

// Due is when Tick is to be called next, Never if nothing is due.
func (s *Shell) Due() replication.Nanos {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.due
}

// With runs f on the core and does what follows from it.
func (s *Shell) With(now replication.Nanos, f func(*replication.Core)) {
	s.Look(f)
	s.Run(now)
}

// Look runs f on the core. If it changes anything, what follows from that waits for the
// next Run.
func (s *Shell) Look(f func(*replication.Core)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s.core)
}
