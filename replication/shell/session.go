package shell

import (
	"lockstep/replication"
	"lockstep/replication/roles"
)

// Begin begins a session: see replication.Core.PeerJoined. What the core has to say goes to
// to from now on; frames of the peer are given to Step from the caller's next step on.
func (s *Shell) Begin(now replication.Nanos, version uint8, to Sender) error {
	s.send.Lock()
	s.mu.Lock()
	err := s.core.PeerJoined(now, version)
	if err == nil {
		s.inSync = false // so that this session's coming in sync is news
		s.sender, s.said = to, false
	}
	s.mu.Unlock()
	s.send.Unlock()
	if err == nil {
		s.Run(now)
	}
	return err
}

// Detach sends nothing more. The core is told nothing: its gates stay as they are.
func (s *Shell) Detach() {
	s.send.Lock()
	s.sender = nil
	s.send.Unlock()
}

// Step takes a frame from the peer: see replication.Core.Step. It runs on the session's
// reader. The answer leaves from here: one hand-over between goroutines less on the path
// that every held ACK waits for.
func (s *Shell) Step(now replication.Nanos, frame []byte) error {
	s.mu.Lock()
	before := s.core.Heard()
	if err := s.core.Step(now, frame); err != nil {
		s.mu.Unlock()
		return err
	}
	news := News{Late: now - before - s.period, Fitness: s.core.FitnessSaid(), Orders: s.core.OrdersSaid()}
	if news.Late > 0 && s.period > 0 {
		s.patience.PeerDelay(now, news.Late)
	} else {
		news.Late = 0
	}
	if in := s.core.InSync(); in != s.inSync {
		s.inSync, news.InSync = in, true
	}
	s.claimed = true
	at, earlier := s.rearm(now)
	s.mu.Unlock()
	s.host.Heard(news)
	s.mu.Lock()
	s.core.LeaseTold()
	s.mu.Unlock()
	s.flush()
	s.carry()
	if earlier {
		s.host.Wake(at)
	}
	return nil
}

// SetPatience says how silence is judged: for how long it is borne, by what times a pair without a witness
// lives (nil: there is a witness), and how often the peer says something. Without it silence is borne for
// Limits.FailureTimeout.
func (s *Shell) SetPatience(p roles.Patience, alone *roles.AloneConfig, period replication.Nanos) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.patience, s.alone, s.period = p, alone, period
}

// TookOver tells that one of the two has just taken over from the other.
func (s *Shell) TookOver(now replication.Nanos) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.patience.TookOver(now)
}

// Patience is how silence is judged now.
func (s *Shell) Patience() roles.Patience {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.patience
}

// Glance is what Tick has found.
type Glance struct {
	Bear   replication.Nanos // for how long silence is borne
	Late   replication.Nanos // Tick was called so late
	Silent bool              // the peer is to be taken for dead
}

// Tick does what is due at now, and says by Due when it is to be called again; millis is
// the reading of the clock that this appliance's timestamps come from. What follows is
// done, too.
func (s *Shell) Tick(now replication.Nanos, millis uint32) Glance {
	s.mu.Lock()
	var g Glance
	if late := now - s.due; late > 0 {
		g.Late = late
		s.patience.OwnDelay(now, late)
	}
	g.Bear = s.patience.Effective(now)
	s.bear(g.Bear)
	s.core.SetClock(now, millis)
	s.core.Tick(now)
	g.Silent = s.silence.judge(s.core.PeerSilent(now), now)
	s.claimed = true
	s.due = s.next(now)
	s.mu.Unlock()
	s.carry()
	s.flush()
	return g
}

// bear tells the core, with mu held, how long silence is to be borne, and without a witness what is promised of it.
func (s *Shell) bear(silence replication.Nanos) {
	if s.alone == nil {
		s.core.SetPatience(silence, 0)
		return
	}
	if s.core.Role() != replication.RoleStandby {
		s.core.SetPatience(silence, s.alone.BearFor(s.core.PeerPromise()))
		return
	}
	p := s.core.Promised()
	s.core.Promise(s.alone.Promise(silence, p))
	s.core.SetPatience(silence, s.alone.FreshFor(p.Least)) // else its store could not be continued any more
}

// next is when to call Tick after now.
func (s *Shell) next(now replication.Nanos) replication.Nanos {
	if s.silence.looks > 0 {
		return now + pause
	}
	at := s.core.NextTick(now)
	if at == replication.Never {
		return at
	}
	return max(at, now+pause)
}

// pause is the least time between two ticks, and that between two looks at the peer's
// silence. late is how late a look may be to count.
const (
	pause = 1_000_000
	late  = 5_000_000
	looks = 4
)

// silence keeps this process's own stalls from looking like the peer's death: after a pause
// of ours (no CPU, a stopped machine) the silence is long, but its frames are waiting to be
// read. So silence counts only once it has been seen by several looks in a row that came
// on time.
type silence struct {
	looks int
	last  replication.Nanos
}

// judge takes one look and tells whether the peer is to be taken for dead.
func (s *silence) judge(silent bool, now replication.Nanos) bool {
	onTime := now-s.last <= late
	s.last = now
	if !silent || !onTime {
		s.looks = 0
	}
	if silent {
		s.looks++
	}
	return s.looks >= looks
}

// Takeover takes all connections out of the core: see replication.Core.Takeover. shift is
// what to add to their TSOffsets, whose clock now reads own: the former active's clock less
// ours, as heartbeats have told it, and the round trip and margin (both milliseconds) on
// top, because TSval must not go back (invariant 7).
func (s *Shell) Takeover(epoch uint64, own, margin uint32) (first []replication.Continue, rest *replication.Rest, shift uint32, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if first, rest, err = s.core.TakeoverFirst(epoch); err != nil {
		return nil, nil, 0, err
	}
	if est, ok := s.core.PeerClock(own); ok {
		shift = est - own
	}
	return first, rest, shift + uint32(s.core.RTT()/1_000_000) + margin, nil
}
