package roles

import (
	"fmt"
	"testing"

	"lockstep/replication"
)

func TestActiveWithoutStandby(t *testing.T) {
	t.Run("its process is dead", func(t *testing.T) {
		a := newBench(t, true)
		a.active()
		a.r.SessionLost(a.now, "closed")
		a.run(20 * millis)
		a.does()
		a.r.Refused(a.now)
		a.does("go on")
	})
	t.Run("it was not in sync", func(t *testing.T) {
		a := newBench(t, true)
		a.active()
		a.replaceable = false
		a.r.SessionLost(a.now, "closed")
		a.does("go on")
	})
	t.Run("silent: it may have taken over", func(t *testing.T) {
		a := newBench(t, true)
		a.active()
		a.run(105 * millis)
		a.r.SessionLost(a.now, "heartbeats stopped")
		a.does("mute")
		a.run(400 * millis)
		a.does()
		a.run(200 * millis)
		a.does("go on")
	})
	t.Run("it has taken over", func(t *testing.T) {
		a := newBench(t, true)
		a.active()
		a.run(105 * millis)
		a.r.SessionLost(a.now, "heartbeats stopped")
		a.run(50 * millis)
		a.r.Claimed(a.now, "b")
		a.does("mute")
		a.run(10 * millis)
		a.r.Claimed(a.now, "b")
		a.does("mute", "step down")
		a.run(5 * second)
		a.does()
	})
	t.Run("one frame of a stranger", func(t *testing.T) {
		a := newBench(t, true)
		a.active()
		a.run(105 * millis)
		a.r.SessionLost(a.now, "heartbeats stopped")
		a.run(50 * millis)
		a.r.Claimed(a.now, "stranger")
		a.sleep(millis)
		a.r.Claimed(a.now, "stranger") // the same frame, twice
		a.run(800 * millis)
		a.does("mute", "go on")
	})
	t.Run("frames of strangers without end", func(t *testing.T) {
		a := newBench(t, true)
		a.active()
		a.run(105 * millis)
		a.r.SessionLost(a.now, "heartbeats stopped")
		for i := range 20 {
			a.run(100 * millis)
			a.r.Claimed(a.now, fmt.Sprint("stranger ", i))
		}
		a.does("mute", "go on")
	})
	t.Run("unplugged: nobody could be heard", func(t *testing.T) {
		a := newBench(t, true)
		a.active()
		a.cutOff = true
		a.run(105 * millis)
		a.r.SessionLost(a.now, "heartbeats stopped")
		a.run(20 * second)
		a.does("mute")
		a.cutOff = false
		a.run(600 * millis)
		a.does("go on")
	})
	t.Run("stopped while it asks", func(t *testing.T) {
		a := newBench(t, true)
		a.active()
		a.run(105 * millis)
		a.r.SessionLost(a.now, "heartbeats stopped")
		a.run(100 * millis)
		a.sleep(2 * second)
		a.run(400 * millis)
		a.does("mute") // it has heard nothing meanwhile
		a.run(200 * millis)
		a.does("go on")
	})
	t.Run("they meet while it is in doubt", func(t *testing.T) {
		a := newBench(t, true)
		a.active()
		a.sleep(2 * second)
		a.r.SessionLost(a.now, "closed")
		a.meets(Stale, Said{Role: replication.RoleStandby, Epoch: 3, InSync: true})
		a.does("mute")
		a.meets(Begin, Said{Epoch: 3, Boot: first})
		a.does("go on")
	})
}

// An active that was not running for longer than its standby needs to take over knows
// nothing either.
func TestWokenActiveKnowsNothing(t *testing.T) {
	t.Run("session first", func(t *testing.T) { wokenActive(t, false) })
	t.Run("announcement first", func(t *testing.T) { wokenActive(t, true) })
}

// wokenActive: early, the announcement is read before the session's end.
func wokenActive(t *testing.T, early bool) {
	asleep := func(t *testing.T) *bench {
		a := newBench(t, true)
		a.active()
		a.sleep(2 * second)
		if early {
			a.r.Claimed(a.now, "b")
		}
		a.r.SessionLost(a.now, "closed")
		if !early {
			a.r.Claimed(a.now, "b") // an announcement that waited in the socket
		}
		a.run(second)
		a.does("mute") // whoever has taken over would have answered; but it may be dead
		return a
	}
	t.Run("a long promise leaves no more time", func(t *testing.T) {
		a := newBench(t, true)
		a.active()
		a.peers = replication.Promise{Wait: 500 * millis, Mute: 500 * millis}
		a.lease = a.now + 490*millis
		a.sleep(800 * millis) // its standby may have taken over by then, and died
		a.r.SessionLost(a.now, "closed")
		a.r.Claimed(a.now, "b")
		a.run(2 * second)
		a.does("mute")
	})
	t.Run("nobody has announced itself meanwhile", func(t *testing.T) {
		a := newBench(t, true)
		a.active()
		a.sleep(2 * second)
		a.r.SessionLost(a.now, "closed")
		a.r.Refused(a.now) // the standby has died: nothing happens to connections
		a.run(600 * millis)
		a.does("mute", "go on")
	})
	t.Run("the standby has not taken over", func(t *testing.T) {
		a := asleep(t)
		a.meets(Stale, Said{Role: replication.RoleStandby, Epoch: 3, InSync: true, Boot: first})
		a.does()
		a.meets(Begin, Said{Epoch: 3, Boot: first})
		a.does("go on")
	})
	t.Run("the standby is dead", func(t *testing.T) {
		a := asleep(t)
		a.r.Refused(a.now)
		a.run(400 * millis)
		a.does("mute", "step down", "start empty 3 lost=true")
	})
	t.Run("the standby has restarted", func(t *testing.T) {
		a := asleep(t)
		a.meets(Stale, Said{Boot: other})
		a.does("mute", "step down")
		a.meets(Begin, Said{Boot: other})
		a.does("start empty 4 lost=true")
	})
	t.Run("the standby has taken over, and gave up", func(t *testing.T) {
		a := asleep(t)
		a.meets(Stale, Said{Epoch: 4, Boot: first})
		a.does("mute", "step down")
	})
	t.Run("the standby is not heard of", func(t *testing.T) {
		a := asleep(t)
		a.run(8 * second)
		a.does()
		a.run(2 * second)
		a.does("mute", "step down", "start empty 3 lost=true")
	})
}

// A claim of our addresses is not authenticated.
func TestClaimsWhileAlone(t *testing.T) {
	alone := func(t *testing.T) *bench {
		a := newBench(t, true)
		a.active()
		a.run(105 * millis)
		a.r.SessionLost(a.now, "heartbeats stopped")
		a.run(600 * millis)
		a.does("mute", "go on")
		return a
	}
	t.Run("once", func(t *testing.T) {
		a := alone(t)
		a.r.Claimed(a.now, "stranger")
		a.run(second)
		a.r.Claimed(a.now, "stranger")
		a.run(second)
		a.does()
	})
	t.Run("who answers", func(t *testing.T) {
		a := alone(t)
		a.r.Claimed(a.now, "b")
		a.run(10 * millis)
		a.r.Claimed(a.now, "b")
		a.does("mute")
		a.run(600 * millis) // and says no more
		a.does("go on")
	})
	t.Run("though the peer is dead", func(t *testing.T) {
		a := alone(t)
		a.r.Refused(a.now)
		for range 10 {
			a.r.Claimed(a.now, "stranger")
			a.run(10 * millis)
		}
		a.does()
	})
	t.Run("of the active before, after our takeover", func(t *testing.T) {
		b := newBench(t, false)
		b.standby()
		b.run(105 * millis)
		b.r.SessionLost(b.now, "heartbeats stopped")
		b.r.Claimed(b.now, "a") // was on its way
		b.run(second)
		b.does("continue 4")
	})
	t.Run("with a standby", func(t *testing.T) {
		a := newBench(t, true)
		a.active()
		a.r.Claimed(a.now, "stranger")
		a.run(10 * millis)
		a.r.Claimed(a.now, "stranger")
		a.does()
	})
}

// An active that is alone and stands still for long finds itself mute: somebody may have
// started without its connections.
func TestActiveAloneStandsStill(t *testing.T) {
	a := newBench(t, true)
	a.active()
	a.r.SessionLost(a.now, "closed")
	a.r.Refused(a.now)
	a.run(20 * second)
	a.does("go on")
	a.sleep(4 * second)
	a.run(10 * millis)
	a.does() // nobody starts within that
	a.sleep(6 * second)
	if a.now < a.Lease() {
		t.Fatal("it may speak when it wakes")
	}
	a.run(600 * millis)
	a.does("mute", "go on")
}

// TestPromises: a standby waits for the longest of its promises that counts, and gives its store up by the shortest; its active is mute for
// as long as belongs to the newest that it has heard.
func TestPromises(t *testing.T) {
	long := replication.Promise{Wait: 300 * millis, Mute: 500 * millis}
	standby := func(p replication.Promised) *bench {
		b := newBench(t, false)
		b.standby()
		b.promised = p
		b.run(10 * millis)
		b.r.SessionLost(b.now, "closed")
		return b
	}
	b := standby(replication.Promised{Least: usual, Most: long})
	b.run(280 * millis)
	b.does()
	b.run(10 * millis)
	b.does("continue 4")

	b = standby(replication.Promised{Least: usual, Most: long})
	b.sleep(400 * millis) // what belongs to the shortest
	b.r.Tick(b.now)
	b.does("give up")
	b = standby(replication.Promised{Least: long, Most: long})
	b.sleep(400 * millis)
	b.r.Tick(b.now)
	b.does("continue 4")

	a := newBench(t, true)
	a.active()
	a.peers, a.lease = long, a.now+294*millis
	a.sleep(294 * millis)
	a.r.SessionLost(a.now, "heartbeats stopped")
	a.does("mute")
	a.run(895 * millis) // 10 heartbeats, 500 and 200 ms
	a.does()
	a.run(10 * millis)
	a.does("go on")
}
