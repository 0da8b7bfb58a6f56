package shell

import "lockstep/replication"

// What wrapped servers ask for. Effects.Decided takes whatever lock guards who waits for what; it may be held here.

// BeginLife begins a life of determinants: see replication.Core.BeginLife.
func (s *Shell) BeginLife(now replication.Nanos, id replication.LifeID, name string) error {
	s.mu.Lock()
	return s.done(s.core.BeginLife(now, id, name))
}

// Decide returns what is decided: see replication.Core.Decide. A decision is sent at once, not when Run's turn comes: a server waits for it.
func (s *Shell) Decide(now replication.Nanos, id replication.LifeID, key string, proposal []byte) (replication.Decision, error) {
	s.mu.Lock()
	d, err := s.core.Decide(now, id, key, proposal)
	if !s.core.Flushable() {
		return d, s.done(err)
	}
	s.mu.Unlock()
	s.flush()
	return d, err
}

// Forget forgets a decision: see replication.Core.Forget.
func (s *Shell) Forget(now replication.Nanos, id replication.LifeID, number uint64) error {
	s.mu.Lock()
	return s.done(s.core.Forget(now, id, number))
}

// EndLife ends a life: see replication.Core.EndLife.
func (s *Shell) EndLife(now replication.Nanos, id replication.LifeID) error {
	s.mu.Lock()
	return s.done(s.core.EndLife(now, id))
}
