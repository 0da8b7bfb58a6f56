package shell

import "lockstep/replication"

// What the relay tells. An error is the core's refusal, which it has counted.

// Open begins a connection: see replication.Core.Open.
func (s *Shell) Open(now replication.Nanos, r *replication.Record) error {
	s.mu.Lock()
	err := s.core.Open(now, r)
	flush := s.core.Flushable()
	s.mu.Unlock()
	s.carry() // without a standby it is open at once
	if flush {
		s.host.Kick()
	}
	return err
}

// Adopt hands in a connection that Effects.Adopt has asked for: see
// replication.Core.Adopt.
func (s *Shell) Adopt(now replication.Nanos, r *replication.Record, pos [2]replication.StreamPos, log *replication.Log) error {
	s.mu.Lock()
	err := s.core.Adopt(now, r, pos, log)
	flush := s.core.Asked() == 0 && s.core.Flushable()
	at, earlier := s.rearm(now)
	s.mu.Unlock()
	s.carry() // who is next
	if flush {
		s.host.Kick()
	}
	if earlier {
		s.host.Wake(at)
	}
	return err
}

// Terminate tells that a connection which was passed on is ended here: see replication.Core.Terminate.
func (s *Shell) Terminate(now replication.Nanos, r *replication.Record, pos [2]replication.StreamPos) error {
	s.mu.Lock()
	err := s.core.Terminate(now, r, pos)
	at, earlier := s.rearm(now)
	kick := s.follow()
	s.mu.Unlock()
	if kick {
		s.host.Kick()
	}
	if earlier {
		s.host.Wake(at)
	}
	return err
}

// Continued: see replication.Core.Continued.
func (s *Shell) Continued(now replication.Nanos, id replication.ConnID) error {
	s.mu.Lock()
	err := s.core.Continued(now, id)
	at, earlier := s.rearm(now) // a standby that has joined is to be told of it
	kick := s.follow()
	s.mu.Unlock()
	if kick {
		s.host.Kick()
	}
	if earlier {
		s.host.Wake(at)
	}
	return err
}

// Data hands in bytes of a stream, the first at off, and its FIN: see
// replication.Core.Data. Nothing of bufs is kept. The first error is returned.
func (s *Shell) Data(now replication.Nanos, id replication.ConnID, st replication.Stream, off uint64, bufs [][]byte, fin bool) error {
	s.mu.Lock()
	var first error
	for i, b := range bufs {
		if err := s.core.Data(now, id, st, off, b, fin && i == len(bufs)-1); first == nil {
			first = err
		}
		off += uint64(len(b))
	}
	if fin && len(bufs) == 0 {
		first = s.core.Data(now, id, st, off, nil, true)
	}
	return s.done(first)
}

// done ends an input that began with locking mu.
func (s *Shell) done(err error) error {
	kick := s.follow()
	s.mu.Unlock()
	if kick {
		s.host.Kick()
	}
	return err
}

// Received tells how far a response was read: see replication.Core.Received.
func (s *Shell) Received(now replication.Nanos, id replication.ConnID, st replication.Stream, off uint64, fin bool) error {
	s.mu.Lock()
	err := s.core.Received(now, id, st, off, fin)
	at, earlier := s.rearm(now) // it may be the first that waits to be asked for
	kick := s.follow()
	s.mu.Unlock()
	if kick {
		s.host.Kick()
	}
	if earlier {
		s.host.Wake(at)
	}
	return err
}

// Delivered tells how far a stream's receiver has acknowledged it: see
// replication.Core.Delivered. It is for the packet path: it waits for nothing but the
// core.
func (s *Shell) Delivered(now replication.Nanos, id replication.ConnID, st replication.Stream, off uint64) error {
	s.mu.Lock()
	return s.done(s.core.Delivered(now, id, st, off))
}

// Close ends a connection: see replication.Core.Close.
func (s *Shell) Close(now replication.Nanos, id replication.ConnID, kind replication.CloseKind) error {
	s.mu.Lock()
	return s.done(s.core.Close(now, id, kind))
}

// Released tells how far a response was released to the client: see
// replication.Core.Released. It is sent at once, not when Run's turn comes: the bytes
// leave next, and the standby should have their digest even if this process dies then.
func (s *Shell) Released(now replication.Nanos, id replication.ConnID, r replication.Released) error {
	s.mu.Lock()
	err := s.core.Released(now, id, r)
	if !s.core.Flushable() {
		return s.done(err)
	}
	s.mu.Unlock()
	s.flush()
	return err
}

// Checkpoint tells where a replay starts: see replication.Core.Checkpoint.
func (s *Shell) Checkpoint(now replication.Nanos, id replication.ConnID, off [2]uint64) error {
	s.mu.Lock()
	return s.done(s.core.Checkpoint(now, id, off))
}

// ServerLeg tells which leg serves a connection from now on: see
// replication.Core.ServerLeg. Effects.LegHeld follows, be it because the connection is not
// protected, unless there is an error.
func (s *Shell) ServerLeg(now replication.Nanos, id replication.ConnID, leg *replication.LegRecord, start [2]uint64) error {
	s.mu.Lock()
	return s.done(s.core.ServerLeg(now, id, leg, start))
}

// Unlog gives up a connection's log: see replication.Core.Unlog.
func (s *Shell) Unlog(now replication.Nanos, id replication.ConnID) error {
	s.mu.Lock()
	return s.done(s.core.Unlog(now, id))
}

// Forgo gives up a connection's protection: see replication.Core.Forgo.
func (s *Shell) Forgo(now replication.Nanos, id replication.ConnID) error {
	s.mu.Lock()
	return s.done(s.core.Forgo(now, id))
}

// Congested asks for less to be read from clients: see replication.Core.Congested.
func (s *Shell) Congested() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.core.Congested()
}
