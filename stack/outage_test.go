package stack_test

import (
	"testing"
	"time"

	"lockstep/internal/script"
	"lockstep/stack"
)

// A network is mute for a while, and nothing tells: no carrier goes, and we are active all the time. Whoever
// does not acknowledge what netstack's timer has sent again is asked until he answers; then what
// he lacks leaves at once, though that timer has doubled, and what he has sent in vain is made to come.
func TestOutageOfTheNetwork(t *testing.T) {
	b := newBench(t, stack.Options{})
	l := b.open()
	b.unacked = 100
	b.heard(l)
	b.write(l, 0, 1000)
	sent := func(s *script.Segment) bool { return len(s.Payload) > 0 && s.Seq == b.iss+1 }
	n := b.count()
	for range 2 { // its time-out is 800 ms then, or more
		b.expect(n, "what netstack's timer sends again", sent)
		n = b.count()
	}
	b.expect(n, "probe", b.asked)
	b.expect(b.count(), "another one", b.asked)
	n = b.count()
	answer := func() {
		b.inject(script.Segment{Flags: script.ACK, Seq: benchISN + 1 + 1548, Ack: b.iss + 1, Win: 1000, Opts: b.opts(false)})
	}
	answer()
	b.expect(n, "the first segment again", sent)
	answer() // to the next question
	b.await("ICMP errors", func() bool { return b.icmpErrors >= 5 })
	b.inject(script.Segment{Flags: script.ACK, Seq: benchISN + 101, Ack: b.iss + 1001, Win: 1000, Opts: b.opts(false), Payload: pattern(100, 1448)})
	b.received(l, 1548)
}

// Who has fallen silent with somebody who has come back is asked, too: what he has sent in vain nobody here
// knows of. Whoever speaks, and whoever has been silent for long, is left alone.
func TestOthersAreAskedAfterAnOutage(t *testing.T) {
	c := &jumping{born: time.Now()}
	b := newBench(t, stack.Options{Clock: c})
	l := b.open()
	b.heard(l)
	if b.eng.AskSilentNow(silence); l.Silent() == 0 && l.Unheard() {
		t.Error("a client that speaks is asked")
	}
	silent := func(d time.Duration) {
		c.by.Add(int64(d))
		b.poll("the janitor's clock", func() bool { return l.Silent() >= d })
	}
	silent(silence)
	if b.eng.AskSilentNow(l.Silent()); !l.Unheard() {
		t.Error("a client that fell silent is not asked")
	}
	b.inject(script.Segment{Flags: script.ACK, Seq: benchISN + 101, Ack: b.iss + 1, Win: 1000, Opts: b.opts(false)})
	b.poll("answer", func() bool { return !l.Unheard() })
	silent(time.Minute)
	if b.eng.AskSilentNow(silence); l.Unheard() {
		t.Error("an idle client is disturbed")
	}
}

// A client that was idle for ten minutes answers what is sent again, late: a segment was lost, and that was no
// outage. Nobody else is asked.
func TestALostSegmentIsNoOutage(t *testing.T) {
	c := &jumping{born: time.Now()}
	b := newBench(t, stack.Options{Clock: c})
	l := b.open()
	b.unacked = 100
	b.heard(l)
	c.by.Add(int64(10 * time.Minute))
	b.poll("the janitor's clock", func() bool { return l.Silent() >= 9*time.Minute })
	b.write(l, 0, 1000)
	b.poll("suspected", l.Suspected)
	b.inject(script.Segment{Flags: script.ACK, Seq: benchISN + 101, Ack: b.iss + 1001, Win: 1000, Opts: b.opts(false)})
	b.poll("back", func() bool { return !l.Suspected() })
	if ago, ok := b.eng.CameBack(); ok {
		t.Errorf("all who were heard since %v ago are asked", ago)
	}
}

// In an outage a client may have been idle for long before: it began when what it does not acknowledge left.
func TestOutageBeginsWithWhatIsLost(t *testing.T) {
	c := &jumping{born: time.Now()}
	b := newBench(t, stack.Options{Clock: c})
	l := b.open()
	b.unacked = 100
	b.heard(l)
	c.by.Add(int64(10 * time.Minute))
	b.poll("the janitor's clock", func() bool { return l.Silent() >= 9*time.Minute })
	n := b.count()
	b.write(l, 0, 1000)
	b.expect(n, "probe", b.asked)
	b.expect(b.count(), "another one", b.asked)
	b.expect(b.count(), "a third one", b.asked)
	b.inject(script.Segment{Flags: script.ACK, Seq: benchISN + 101, Ack: b.iss + 1, Win: 1000, Opts: b.opts(false)})
	var ago time.Duration
	b.poll("back", func() (ok bool) { ago, ok = b.eng.CameBack(); return ok })
	if ago > 5*time.Minute {
		t.Errorf("it is said to have begun %v ago", ago)
	}
	if n := b.eng.Turns(l); n > 1 {
		t.Errorf("the prober has the leg %d times", n)
	}
}

// An idle client that has answered is not asked again, however often others come back. The clock stands but for the test: what
// a busy machine takes is no part of how long ago the client was heard.
func TestIdleClientIsAskedOnce(t *testing.T) {
	c := &standing{born: time.Now()}
	b := newBench(t, stack.Options{Clock: c})
	l := b.open()
	b.heard(l)
	asked := 0
	for range 8 {
		c.by.Add(int64(time.Second))
		b.poll("the janitor's clock", func() bool { return l.Silent() >= time.Second/2 })
		b.eng.AskSilentNow(300 * time.Millisecond)
		if l.Unheard() {
			asked++
			b.inject(script.Segment{Flags: script.ACK, Seq: benchISN + 101, Ack: b.iss + 1, Win: 1000, Opts: b.opts(false)})
			b.poll("answer", func() bool { return !l.Unheard() })
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

// While the engine is mute its silence is its own: what was sent in vain leaves at once when it may
// speak again, however often netstack's timer has struck meanwhile.
func TestOwnSilenceIsNoOutage(t *testing.T) {
	b := newBench(t, stack.Options{})
	l := b.open()
	b.unacked = 100
	b.heard(l)
	b.eng.SetActive(false)
	b.write(l, 0, 1000)
	b.poll("two repetitions, which do not leave", func() bool { return l.Silent() > 1500*time.Millisecond })
	if l.Suspected() {
		t.Error("the client is taken for silent")
	}
	n := b.count()
	b.eng.Unmute()
	b.expect(n, "the first segment", func(s *script.Segment) bool { return len(s.Payload) > 0 && s.Seq == b.iss+1 })
}
