package roles

import (
	"math/rand/v2"
	"testing"

	"lockstep/replication"
	"lockstep/replication/wire"
)

func TestPatience(t *testing.T) {
	p := Patience{FailureTimeout: 100 * millis, Longest: 340 * millis}
	now := Nanos(1000_000 * millis)
	want := func(what string, d Nanos) {
		t.Helper()
		if got := p.Effective(now); got != d {
			t.Errorf("%s: %d ms, want %d ms", what, got/millis, d/millis)
		}
	}
	want("nothing measured", 100*millis)
	for range 100 {
		p.OwnDelay(now, 2*millis)
		p.PeerDelay(now, 20*millis)
		now += 20 * millis
	}
	want("machines that are on time", 100*millis)
	p.OwnDelay(now, 50*millis)
	want("a late timer", 200*millis)
	now += 20 * 1000 * millis
	p.PeerDelay(now, 70*millis)
	want("a later heartbeat", 280*millis)
	p.PeerDelay(now, 10*millis)
	want("better again", 280*millis)
	p.OwnDelay(now, 5000*millis)
	want("a long stall", 340*millis)
	if own, peer := p.Delays(now); own != 5000*millis || peer != 70*millis {
		t.Errorf("delays %d and %d ms", own/millis, peer/millis)
	}
	now += 31 * 1000 * millis
	want("half a minute later", 340*millis)
	now += 31 * 1000 * millis
	want("a minute later", 100*millis)

	p.TookOver(now)
	want("after a takeover", 340*millis)
	now += holdDown - 1
	want("still after a takeover", 340*millis)
	now++
	want("at the end of the hold-down", 100*millis)
}

// Without a witness silence is judged while the store can still be continued, and never
// before failure_timeout, whatever the times are.
func TestLongestPatience(t *testing.T) {
	for _, c := range []AloneConfig{
		{Heartbeat: 20 * millis, FailureTimeout: 100 * millis, StartEmptyAfter: 10_000 * millis},
		{Heartbeat: 20 * millis, FailureTimeout: 100 * millis, StartEmptyAfter: 1000 * millis},
		{Heartbeat: 50 * millis, FailureTimeout: 1000 * millis, StartEmptyAfter: 10_000 * millis},
		{Heartbeat: 1 * millis, FailureTimeout: 3 * millis, StartEmptyAfter: 1000 * millis},
		{Heartbeat: 10_000 * millis, FailureTimeout: 60_000 * millis, StartEmptyAfter: 600_000 * millis},
	} {
		if c.LongestPatience() >= max(3000*millis, 2*c.FailureTimeout) { // see appliance: userTimeout
			t.Errorf("%+v: the kernel gives the connection up before %d ms", c, c.LongestPatience()/millis)
		}
		if c.LongestPatience() < c.FailureTimeout {
			t.Errorf("%+v: patience %d ms", c, c.LongestPatience()/millis)
		}
		if mute := c.LongestPatience() + c.doubtTime(c.LongestPatience()); mute > max(c.StartEmptyAfter, 2*c.FailureTimeout+11*c.Heartbeat) {
			t.Errorf("%+v: an active is on its own only after %d ms", c, mute/millis)
		}
	}
}

// What docs/tuning.md says of the default's times, and of a failure_timeout of a second.
func TestPatienceInDocs(t *testing.T) {
	for _, c := range []struct{ failure, longest, fresh, doubt Nanos }{{100, 500, 400, 900}, {1000, 2000, 1840, 2400}} {
		a := AloneConfig{Heartbeat: 20 * millis, FailureTimeout: c.failure * millis, StartEmptyAfter: 10 * second}
		longest, usual := a.LongestPatience(), replication.Promise{Wait: a.FailureTimeout, Mute: a.FailureTimeout}
		if longest != c.longest*millis || a.takeTime(usual) != c.fresh*millis || a.doubtTime(longest) != c.doubt*millis {
			t.Errorf("failure_timeout %d ms: silence is borne for %d ms, a store good for %d ms, doubt up to %d ms", c.failure, longest/millis, a.takeTime(usual)/millis, a.doubtTime(longest)/millis)
		}
	}
}

// beats are an active and its standby that exchange nothing but heartbeats, in steps of a
// millisecond. The active stands still for a while, ever longer.
type beats struct {
	now             Nanos
	active, standby *replication.Core
	patience        *Patience // of the standby; nil: failure_timeout
	silent          bool
	silences        int
}

func newBeats(t *testing.T, p *Patience) *beats {
	lim := replication.Limits{Heartbeat: 20 * millis, FailureTimeout: 100 * millis}
	b := &beats{now: 1, active: replication.New(lim), standby: replication.New(lim), patience: p}
	for c, role := range map[*replication.Core]replication.Role{b.active: replication.RoleActive, b.standby: replication.RoleStandby} {
		if err := c.SetRole(role, 1); err != nil {
			t.Fatal(err)
		}
		if err := c.PeerJoined(b.now, wire.Version); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// pass hands on each frame of buf.
func pass(t *testing.T, buf []byte, to func([]byte) error) {
	t.Helper()
	for len(buf) > 0 {
		n, err := wire.FrameLen(buf)
		if err == nil {
			err = to(buf[:n])
		}
		if err != nil {
			t.Fatal(err)
		}
		buf = buf[n:]
	}
}

func (b *beats) run(t *testing.T, d Nanos, stalled bool) {
	for end := b.now + d; b.now < end; b.now += millis {
		b.standby.Tick(b.now)
		if b.patience != nil {
			b.standby.SetPatience(b.patience.Effective(b.now), 0)
		}
		silent := b.standby.PeerSilent(b.now)
		if silent && !b.silent {
			b.silences++
		}
		b.silent = silent
		if stalled {
			continue // what the standby sends waits
		}
		b.active.Tick(b.now)
		for i := 0; i < 10 && (b.active.Flushable() || b.standby.Flushable()); i++ {
			pass(t, b.active.Flush(nil), func(frame []byte) error {
				before := b.standby.Heard()
				err := b.standby.Step(b.now, frame)
				if late := b.now - before - 20*millis; b.patience != nil && late > 0 {
					b.patience.PeerDelay(b.now, late)
				}
				return err
			})
			pass(t, b.standby.Flush(nil), func(frame []byte) error { return b.active.Step(b.now, frame) })
		}
	}
}

// A machine that gets busier and busier: the patience is ahead of the stalls up to its
// bound, and after the bound silence counts. failure_timeout alone takes each for a death.
func TestPatienceFollowsStalls(t *testing.T) {
	for _, follows := range []bool{false, true} {
		var p *Patience
		if follows {
			p = &Patience{FailureTimeout: 100 * millis, Longest: 330 * millis}
		}
		b := newBeats(t, p)
		for _, stall := range []Nanos{30, 50, 70, 110, 150, 200, 250, 280} {
			b.run(t, 500*millis, false)
			b.run(t, stall*millis, true)
		}
		b.run(t, 500*millis, false)
		if want := 5; !follows && b.silences != want {
			t.Errorf("failure_timeout alone: %d silences, want %d", b.silences, want)
		}
		if follows && b.silences != 0 {
			t.Errorf("%d silences within the patience", b.silences)
		}
		had := b.silences
		b.run(t, 400*millis, true)
		if b.silences != had+1 {
			t.Error("the silence of a dead one does not count")
		}
	}
}

// A standby's patience ends while its store can still be continued, though the heartbeats
// that the active has answered are older than the newest sign of it.
func TestPatienceEndsInTime(t *testing.T) {
	b := newBeats(t, &Patience{FailureTimeout: 100 * millis, Longest: 100 * millis})
	b.run(t, 200*millis, false)
	at, ok := b.standby.Confirmed()
	if !ok {
		t.Fatal("no heartbeat of the standby is answered")
	}
	b.standby.SetPatience(1000*millis, 330*millis)
	heard := b.standby.Heard()
	if b.standby.PeerSilent(at+330*millis-1) || !b.standby.PeerSilent(at+330*millis) {
		t.Error("silence is not judged 330 ms after the confirmed heartbeat")
	}
	b.standby.SetPatience(1000*millis, 10*millis)
	if b.standby.PeerSilent(heard+100*millis-1) || !b.standby.PeerSilent(heard+100*millis) {
		t.Error("silence is not judged after failure_timeout, and not before")
	}
	b.standby.SetPatience(10*millis, 0)
	if b.standby.PeerSilent(heard + 100*millis - 1) {
		t.Error("a patience below failure_timeout counts")
	}
}

// A standby's promises, whatever it wishes and whenever its active answers: when the longest that counts is over, as much is left
// of the time for which the store may be continued as with failure_timeout. And it gets to what it wishes.
func TestPromise(t *testing.T) {
	for _, c := range []AloneConfig{
		{Heartbeat: 20 * millis, FailureTimeout: 100 * millis, StartEmptyAfter: 10_000 * millis},
		{Heartbeat: 50 * millis, FailureTimeout: 1000 * millis, StartEmptyAfter: 10_000 * millis},
		{Heartbeat: 1 * millis, FailureTimeout: 3 * millis, StartEmptyAfter: 1000 * millis},
		{Heartbeat: 10_000 * millis, FailureTimeout: 60_000 * millis, StartEmptyAfter: 600_000 * millis},
	} {
		rng := rand.New(rand.NewPCG(uint64(c.FailureTimeout), 1))
		usual := replication.Promise{Wait: c.FailureTimeout, Mute: c.FailureTimeout}
		said := []replication.Promise{usual} // from the newest answered on
		counts := func() replication.Promised {
			p := replication.Promised{Least: said[0], Most: said[0]}
			for _, d := range said {
				p.Least = replication.Promise{Wait: min(p.Least.Wait, d.Wait), Mute: min(p.Least.Mute, d.Mute)}
				p.Most = replication.Promise{Wait: max(p.Most.Wait, d.Wait), Mute: max(p.Most.Mute, d.Mute)}
			}
			return p
		}
		say := func(wish Nanos, answered bool) {
			said = append(said, c.Promise(wish, counts()))
			if answered {
				said = said[len(said)-1:]
			} else if len(said) > 5 {
				said = said[rng.IntN(5):]
			}
			p := counts()
			if left := c.takeTime(p.Least) - p.Most.Wait; left < c.takeTime(usual)-c.FailureTimeout-10 || p.Least.Wait < c.FailureTimeout || p.Most.Mute > c.LongestPatience() {
				t.Fatalf("%+v: %+v: %d ms are left", c, p, left/millis)
			}
		}
		for range 10_000 {
			say(Nanos(rng.Int64N(int64(2*c.LongestPatience()))), rng.IntN(3) == 0)
		}
		for _, wish := range []Nanos{0, c.LongestPatience(), 0} {
			for range 12 {
				say(wish, true)
			}
			if want := max(wish, c.FailureTimeout); said[0] != (replication.Promise{Wait: want, Mute: want}) {
				t.Errorf("%+v: %+v is promised, not %d", c, said[0], want)
			}
		}
	}
}
