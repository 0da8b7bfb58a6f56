package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/pair"
)

// restAfter is how long what has failed stays so after the other appliance took over: long enough
// that a frozen one wakes up in a world that has moved on.
const restAfter = time.Second

// failure is one round: an appliance, or a server, fails, the other goes on, the failed one comes
// back.
type failure struct {
	Round  int    `json:"round"`            // from 1
	Failed string `json:"failed"`           // the active, or the server, that was broken
	Active string `json:"active"`           // who was active afterwards; empty: nobody in time
	Server string `json:"server,omitempty"` // where a server failed: which one went on; empty: none in time
	// LongestGapMS is the longest gap in a transfer's byte stream that ended after the failure and
	// before the repair; RejoinGapMS the same from there to the next failure.
	LongestGapMS   float64 `json:"longest_gap_ms"`
	RejoinGapMS    float64 `json:"rejoin_gap_ms"`
	TakeoverMicros int64   `json:"takeover_micros"`
	TakeoverLegs   int     `json:"takeover_legs"`
	// RejoinMS is how long it took from the repair until the pair was in sync again, or the server
	// in step with the other; 0: it was not repaired (the last round), or not in time.
	RejoinMS float64 `json:"rejoin_ms"`

	at, repaired time.Time // repaired: zero if it was not
	heir         *appliance
}

// breakAndMend breaks the active as often as asked for, at even shares of the transfers. Before
// each further round what had failed is repaired, and the pair is in sync again; then it is the
// other one's turn.
func (s *show) breakAndMend(ctx context.Context) {
	expected := s.first
	var victim, heir *appliance
	for round := 1; round <= s.opts.rounds; round++ {
		due := s.opts.size / int64(s.opts.rounds+1) * int64(round)
		if !s.until(ctx, func() bool { return max(s.load.down(), s.load.up()) >= due }) {
			return
		}
		var err error
		if victim, heir, err = s.roles(ctx, round); err != nil {
			if ctx.Err() == nil {
				s.trouble = err
			}
			return
		}
		if victim != expected {
			s.unasked++
			s.view.say("appliance %s has become active without a fault", victim.Name)
		}
		s.failures = append(s.failures, failure{Round: round, Failed: victim.Name, heir: heir})
		f := &s.failures[len(s.failures)-1]
		s.fault = s.opts.turn(round)
		victim.setDead()
		f.at = time.Now()
		if err := s.inject(ctx, victim); err != nil {
			s.trouble = fmt.Errorf("round %d: the fault failed: %w", round, err)
			s.failures = s.failures[:round-1]
			victim.setAlive()
			return
		}
		s.view.mark(s.describe(victim, heir))
		if !s.until(ctx, heir.active) {
			s.wake(victim)
			return
		}
		s.tookOver(f)
		if round == s.opts.rounds && s.vms == nil { // a machine is to come back, whatever follows
			break
		}
		if err := s.mend(ctx, round, victim, heir, f); err != nil {
			if ctx.Err() == nil {
				s.trouble = err
			}
			s.wake(victim)
			return
		}
		expected = heir
	}
	if s.opts.fault == faultFreeze && lab.Pause(ctx, restAfter) == nil {
		s.wake(victim)
		s.view.say("kill -CONT %d: appliance %s wakes up and must keep quiet", victim.Process().PID(), victim.Name)
		<-ctx.Done()
	}
	s.wake(victim)
}

// roles tells who is active and who its standby, once the pair is in sync. On a machine that is too
// busy a standby may take a live active for dead: that is no round, but the next one must not break
// the wrong appliance.
func (s *show) roles(ctx context.Context, round int) (active, standby *appliance, err error) {
	var first bool
	_, err = waitFor(ctx, rejoinTimeout, fmt.Sprintf("the pair is in sync before round %d", round), func(st []control.Status) bool {
		first = pair.InSync(st)
		return first || pair.InSync([]control.Status{st[1], st[0]})
	}, s.first, s.second)
	if first {
		return s.first, s.second, err
	}
	return s.second, s.first, err
}

// until polls every millisecond; false when ctx ended first.
func (s *show) until(ctx context.Context, cond func() bool) bool {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}

// tookOver notes and tells that the other appliance is active.
func (s *show) tookOver(f *failure) {
	f.Active = f.heir.Name
	s.view.mark(fmt.Sprintf("appliance %s is active", f.heir.Name))
}

// learn what the heir says of its takeover, some time after it: the last leg may take a while.
func (f *failure) learn(st control.Status) {
	if t := st.LastTakeover; t != nil {
		f.TakeoverMicros, f.TakeoverLegs = t.DurationMicros, t.Legs
	}
}

// describe a fault, once it is done.
func (s *show) describe(victim, heir *appliance) string {
	pid := victim.Process().PID()
	if m := victim.machine; m != nil {
		if text := m.describe(s.fault, victim); text != "" {
			return text
		}
	}
	switch s.fault {
	case faultKill:
		return fmt.Sprintf("kill -9 %d: appliance %s is dead", pid, victim.Name)
	case faultFreeze:
		return fmt.Sprintf("kill -STOP %d: appliance %s is frozen", pid, victim.Name)
	case faultPowerOff:
		return fmt.Sprintf("appliance %s loses its power: it vanishes from all networks without a word", victim.Name)
	case faultSwitchover:
		return fmt.Sprintf("appliance %s has handed over to %s", victim.Name, heir.Name)
	case faultPartition:
		return fmt.Sprintf("appliance %s is cut off from the sync network; both live", victim.Name)
	default:
		return fmt.Sprintf("all cables of appliance %s are pulled", victim.Name)
	}
}

func (s *show) inject(ctx context.Context, victim *appliance) error {
	if m := victim.machine; m != nil {
		if done, err := m.inject(ctx, s.fault, victim); done {
			return err
		}
	}
	switch s.fault {
	case faultSwitchover:
		return victim.handOver(ctx, s.opts.self)
	case faultKill:
		return victim.Process().Kill()
	case faultFreeze:
		return victim.Process().Stop()
	case faultPartition:
		others := []*lab.Host{s.pair.A, s.pair.B}
		if victim.Host == s.pair.A {
			others = others[1:]
		} else {
			others = others[:1]
		}
		if s.pair.W != nil {
			others = append(others, s.pair.W)
		}
		return s.pair.Sync.Partition([]*lab.Host{victim.Host}, others)
	case faultPowerOff:
		// The cables first: of a host without power nobody hears that its processes end.
		if err := s.plug(victim, false); err != nil {
			return err
		}
		return victim.Process().Kill()
	default:
		return s.plug(victim, false)
	}
}

// plug puts in, or pulls, all cables of an appliance.
func (s *show) plug(a *appliance, in bool) error {
	var errs []error
	for _, n := range []*lab.Network{s.pair.Front, s.pair.Back, s.pair.Sync} {
		errs = append(errs, n.PortOf(a.Host).SetLink(in))
	}
	return errors.Join(errs...)
}

// repair undoes what inject did.
func (s *show) repair(ctx context.Context, victim *appliance) error {
	if m := victim.machine; m != nil {
		if done, err := m.repair(ctx, s.fault, victim); done {
			return err
		}
	}
	switch s.fault {
	case faultFreeze:
		return victim.Process().Cont()
	case faultSwitchover:
		return nil // nothing is broken
	case faultPartition:
		return s.pair.Sync.Heal()
	case faultLinkDown:
		return s.plug(victim, true)
	case faultPowerOff:
		if err := s.plug(victim, true); err != nil {
			return err
		}
	}
	return victim.Start(ctx)
}

// mend repairs what has failed and waits until a failure of the other one would cost nothing.
func (s *show) mend(ctx context.Context, round int, victim, heir *appliance, f *failure) error {
	if lab.Pause(ctx, restAfter) != nil {
		return ctx.Err()
	}
	f.repaired = time.Now()
	if err := s.repair(ctx, victim); err != nil {
		return fmt.Errorf("round %d: repair appliance %s: %w", round, victim.Name, err)
	}
	if victim.machine != nil && s.fault != faultSwitchover {
		s.view.say("%s", mended(s.fault, victim))
	} else {
		s.view.say("%s", map[string]string{
			faultKill:       fmt.Sprintf("appliance %s is started again", victim.Name),
			faultPowerOff:   fmt.Sprintf("appliance %s has power again and is started", victim.Name),
			faultFreeze:     fmt.Sprintf("appliance %s wakes up", victim.Name),
			faultLinkDown:   fmt.Sprintf("the cables of appliance %s are plugged in again", victim.Name),
			faultPartition:  "the sync network is whole again",
			faultSwitchover: fmt.Sprintf("appliance %s is ready to come back", victim.Name),
		}[s.fault])
	}
	what := fmt.Sprintf("appliance %s has joined again and the pair is in sync (round %d)", victim.Name, round)
	st, err := waitFor(ctx, rejoinTimeout, what, pair.InSync, heir, victim)
	if err != nil {
		return err
	}
	took := time.Since(f.repaired)
	f.learn(st[0])
	f.RejoinMS = milliseconds(took)
	victim.setAlive()
	s.view.say("appliance %s is the standby and in sync again, %.0f ms later", victim.Name, milliseconds(took))
	return nil
}

// wake a frozen appliance, which could not end otherwise; harmless to any other.
func (s *show) wake(victim *appliance) {
	if s.opts.fault == faultFreeze {
		_ = victim.Process().Cont()
	}
}
