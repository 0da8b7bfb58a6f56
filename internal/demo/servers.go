package demo

import (
	"context"
	"fmt"
	"strings"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab"
)

// nobody is who serves while no server does.
const nobody = "nobody"

// catchUp is how far a real server may be behind the one that serves, bytes, for its failure to
// cost next to nothing: a busy transfer has that much on the way.
const catchUp = 1 << 20

// introduceServers says who serves: the first one, or with release: first whoever is faster.
func (s *show) introduceServers(out *verdict) {
	out.ServerBefore = s.load.servers[0].name()
	if s.opts.release == releaseFirst {
		out.ServerBefore = s.everyServer()
	}
	s.setServing(out.ServerBefore)
	out.ServerAfter = out.ServerBefore
}

func (s *show) everyServer() string {
	var names []string
	for _, v := range s.load.servers {
		names = append(names, v.name())
	}
	return strings.Join(names, "+")
}

func (s *show) setServing(names string) { s.serving.Store(&names) }

// servingName is who serves; empty where that is no matter.
func (s *show) servingName() string {
	if p := s.serving.Load(); p != nil {
		return *p
	}
	return ""
}

// kept sums up what both appliances have said of their connections' servers: each counts from the
// start of its process, and only the active tells.
func (s *show) kept() (sum control.Kept) {
	for _, a := range []*appliance{s.first, s.second} {
		k := a.lastKept()
		sum.Lost += k.Lost
		sum.Failovers += k.Failovers
		sum.Switched += k.Switched
		sum.Divergences += k.Divergences
		sum.Unverified += k.Unverified
		sum.GivenUp += k.GivenUp
		if a.active() {
			sum.Connections, sum.Replicas, sum.InStep, sum.Orphans = k.Connections, k.Replicas, k.InStep, k.Orphans
			sum.LastMicros, sum.LastServer, sum.LagBytes = k.LastMicros, k.LastServer, k.LagBytes
		}
	}
	return sum
}

// breakServers breaks the server that serves as often as asked for, at even shares of the
// transfers. Before each further round what had failed is repaired and could go on again; then it is
// the other one's turn.
func (s *show) breakServers(ctx context.Context) {
	victim, heir := s.load.servers[0], s.load.servers[len(s.load.servers)-1]
	for round := 1; round <= s.opts.rounds; round++ {
		due := s.opts.size / int64(s.opts.rounds+1) * int64(round)
		if !s.until(ctx, func() bool { return max(s.load.down(), s.load.up()) >= due }) {
			return
		}
		if s.opts.service != "" && s.opts.kept() && !s.until(ctx, s.serversReady) {
			return // real servers differ in speed: one that was left behind could not go on
		}
		s.askAgain(ctx)
		before := s.kept()
		if s.opts.service != "" && before.Switched%2 == 1 {
			// On a busy machine the other one was ahead for a while, and the only connection has
			// gone over to it.
			victim, heir = heir, victim
		}
		s.failures = append(s.failures, failure{Round: round, Failed: victim.name()})
		f := &s.failures[len(s.failures)-1]
		f.at = time.Now()
		s.setServing(nobody)
		if s.opts.release == releaseFirst {
			s.setServing(heir.name())
		}
		if err := s.injectServer(ctx, victim); err != nil {
			if ctx.Err() == nil {
				s.trouble = fmt.Errorf("round %d: the fault failed: %w", round, err)
			}
			s.failures = s.failures[:round-1]
			return
		}
		if !s.until(ctx, func() bool { return s.wentOn(before) }) {
			s.wakeServer(victim)
			return
		}
		s.serverWentOn(f, heir)
		if round == s.opts.rounds {
			break
		}
		if err := s.mendServer(ctx, round, victim, f); err != nil {
			if ctx.Err() == nil {
				s.trouble = err
			}
			s.wakeServer(victim)
			return
		}
		victim, heir = heir, victim
		if s.opts.release == releaseFirst {
			s.setServing(s.everyServer())
		}
	}
	if s.opts.fault == faultServerFreeze && lab.Pause(ctx, restAfter) == nil {
		s.wakeServer(victim)
		s.view.say("kill -CONT %d: server %s wakes up and must not disturb", victim.process().PID(), victim.name())
	}
	<-ctx.Done()
	s.wakeServer(victim)
}

// askAgain refreshes what the active has said, where it matters who serves at this moment.
func (s *show) askAgain(ctx context.Context) {
	for _, a := range []*appliance{s.first, s.second} {
		if s.opts.service != "" && a.active() {
			_, _ = a.Status(ctx) // no answer: the last one stands
		}
	}
}

// wentOn tells whether connections have gone on without the server that served before.
func (s *show) wentOn(before control.Kept) bool {
	if !s.opts.kept() {
		return s.load.fetch.resumed()
	}
	now := s.kept()
	if s.opts.release == releaseFirst && now.Replicas < before.Replicas {
		return true // what one sends the other sends, too: nobody had to go on
	}
	return now.Failovers > before.Failovers && now.Orphans == 0
}

// serverWentOn notes and tells it.
func (s *show) serverWentOn(f *failure, heir *server) {
	f.Server, f.Active = heir.name(), s.activeName()
	s.setServing(f.Server)
	text := fmt.Sprintf("server %s goes on", f.Server)
	if k := s.kept(); k.LastMicros > 0 {
		text += fmt.Sprintf(", %.1f ms after it was known", float64(k.LastMicros)/1000)
	}
	s.view.mark(text)
}

// injectServer does the damage, and says so.
func (s *show) injectServer(ctx context.Context, victim *server) error {
	p := victim.process()
	if s.opts.fault == faultServerFreeze {
		if err := p.Stop(); err != nil {
			return err
		}
		s.view.mark(fmt.Sprintf("kill -STOP %d: server %s is frozen", p.PID(), victim.name()))
		return nil
	}
	if err := p.Kill(); err != nil {
		return err
	}
	s.view.mark(fmt.Sprintf("kill -9 %d: server %s is dead", p.PID(), victim.name()))
	if s.opts.fault != faultServerRestart {
		return nil
	}
	return s.restartServer(ctx, victim)
}

// restartServer starts the process anew.
func (s *show) restartServer(ctx context.Context, victim *server) error {
	<-victim.process().Done()
	if err := s.load.startServer(ctx, victim); err != nil {
		return err
	}
	s.view.say("server %s is started again (process %d)", victim.name(), victim.process().PID())
	return nil
}

// mendServer repairs what has failed, and waits until it could go on if the other one failed.
func (s *show) mendServer(ctx context.Context, round int, victim *server, f *failure) error {
	if lab.Pause(ctx, restAfter) != nil {
		return ctx.Err()
	}
	f.repaired = time.Now()
	switch s.opts.fault {
	case faultServerFreeze:
		s.wakeServer(victim)
		s.view.say("server %s wakes up", victim.name())
	case faultServerKill:
		if err := s.restartServer(ctx, victim); err != nil {
			return fmt.Errorf("round %d: repair server %s: %w", round, victim.name(), err)
		}
	}
	limited, cancel := context.WithTimeout(ctx, rejoinTimeout)
	defer cancel()
	if !s.until(limited, s.serversReady) {
		k := s.kept()
		return fmt.Errorf("not within %v: server %s could go on again (round %d): %d of %d replicas of %d connections are in step",
			rejoinTimeout, victim.name(), round, k.InStep, k.Replicas, k.Connections)
	}
	took := time.Since(f.repaired)
	f.RejoinMS = milliseconds(took)
	s.view.say("server %s could go on again, %.0f ms later", victim.name(), milliseconds(took))
	return nil
}

// serversReady tells whether a failure of the server that serves would cost nothing: another one is
// in step with it on every connection, or healthy where it would be told everything. A real server
// on a busy machine may be a little behind all the time.
func (s *show) serversReady() bool {
	if s.opts.protection == string(config.ProtectHot) {
		k := s.kept()
		all := k.Connections * len(s.load.servers)
		return all > 0 && (k.InStep == all || s.opts.service != "" && k.Replicas == all && k.LagBytes <= catchUp)
	}
	for _, a := range []*appliance{s.first, s.second} {
		if a.active() {
			return a.serversHealthy()
		}
	}
	return false
}

// wakeServer wakes a frozen server; harmless to any other.
func (s *show) wakeServer(victim *server) {
	if s.opts.fault == faultServerFreeze {
		_ = victim.process().Cont()
	}
}

// concludeServers asks who is active, which should be who was.
func (s *show) concludeServers(ctx context.Context, out *verdict) {
	who := s.first
	_, err := waitFor(ctx, afterTimeout, "one appliance is active", func(st []control.Status) bool {
		if st[1].Role == control.RoleActive {
			who = s.second
		}
		return st[0].Role == control.RoleActive || st[1].Role == control.RoleActive
	}, s.first, s.second)
	if err != nil {
		out.Reasons = append(out.Reasons, err.Error())
		return
	}
	if out.ActiveAfter = who.Name; out.ActiveAfter != out.ActiveBefore {
		s.unasked++
	}
	if n := len(s.failures); n > 0 {
		last := &s.failures[n-1]
		if s.opts.service != "" {
			out.ServerBefore = last.Failed // who served when the fault came
		}
		if k := s.kept(); last.Server == "" && k.Failovers > 0 { // the transfers ended before it was seen
			for _, v := range s.load.servers {
				if v.name() != last.Failed || len(s.load.servers) == 1 {
					s.serverWentOn(last, v)
				}
			}
		}
		out.ServerAfter = last.Server
	}
}

// count takes the sums of the appliances' counters.
func (s *show) count(out *verdict) {
	k := s.kept()
	out.ServersLost, out.Failovers, out.Divergences = k.Lost, k.Failovers, k.Divergences
	if k.Unverified > 0 {
		out.Reasons = append(out.Reasons, fmt.Sprintf("%d connections were reset because nobody could tell whether another server's output is the same", k.Unverified))
	}
	if k.GivenUp > 0 {
		out.Reasons = append(out.Reasons, fmt.Sprintf("%d connections were reset because no server went on with them in time", k.GivenUp))
	}
}

// serverLine is what the verdict says of a round in which a server failed.
func (f *failure) serverLine() string {
	line := fmt.Sprintf("%s failed, %s went on: longest gap %.1f ms", f.Failed, name(f.Server), f.LongestGapMS)
	if f.RejoinMS > 0 {
		line += fmt.Sprintf(", in step %.0f ms after the repair (longest gap %.1f ms)", f.RejoinMS, f.RejoinGapMS)
	}
	return line
}
