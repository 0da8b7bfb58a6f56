package kept

import (
	"time"

	"lockstep/appliance/adapter"
	"lockstep/appliance/pool"
	"lockstep/replication"
)

const (
	// dialAnswer is how long a replacement may take to answer the SYN before another
	// server is tried.
	dialAnswer = time.Second
	// redialMin and redialMax bound the pause between two tries when no server answers.
	redialMin = 20 * time.Millisecond
	redialMax = 500 * time.Millisecond
	// refusedMax bounds the pause when servers answer, but refuse the replay.
	refusedMax = 5 * time.Second
	// maxReplicas of one connection; more servers are spares.
	maxReplicas = 3
)

// another is a server for another leg, which must not be known to be down unless any will
// do.
func (k *Kept) another(any bool) (int, bool) {
	used := k.used()
	return k.pool.Next(pool.Want{
		Client: k.client.Params().Remote, After: k.last, Any: any,
		Not: func(i int) bool { return used>>uint(i)&1 == 1 },
	})
}

// wanted is how many servers the connection should have.
func (k *Kept) wanted() int {
	if k.svc.Hot {
		return min(k.pool.Ready(), maxReplicas)
	}
	return 1
}

// recruit sees to it that the connection has the servers that it should have.
func (k *Kept) recruit() {
	if k.streams[replication.Response].FinPassed {
		return
	}
	have, want := len(k.replicas()), k.wanted()
	now := k.host.Now()
	if k.source == nil && k.hopeless(now, have) {
		k.svc.counts.givenUp.Add(1)
		k.host.Abort()
		return
	}
	for _, r := range k.replicas() {
		if !r.leg.Established() {
			k.wakeAt(r.dial.since + dialAnswer)
		}
	}
	if have = k.staying(); have >= want || k.plain {
		return
	}
	if now < k.retryAt {
		k.wakeAt(k.retryAt)
		return
	}
	pause := redialMax
	if k.source == nil {
		pause = min(max(redialMin, (now-k.lostAt)/4), redialMax)
		if k.refusedBy != nil { // they answer, but do not follow: often is no use
			pause = max(pause, min((now-k.lostAt)/4, refusedMax))
		}
	}
	k.retryAt = now + pause
	for ; have < want; have++ {
		i, ok := k.candidate()
		if !ok {
			break
		}
		k.enlist(i)
	}
	if have < want {
		k.wakeAt(k.retryAt)
	}
}

// hopeless reports whether nobody can continue the connection any more.
func (k *Kept) hopeless(now time.Duration, have int) bool {
	k.gain.begin(k.lostAt, k.log.end)
	var got uint64
	for _, r := range k.replicas() {
		got = max(got, r.at+min(r.acked.Load(), k.gain.end))
	}
	over := k.gain.ends(now, got, k.svc.Patience)
	k.wakeAt(over)
	switch {
	case have > 0 && now < over:
		return false
	case k.plain:
		return true
	}
	return now >= over || have == 0 && k.pool.All(func(i int) bool { return k.bad>>uint(i)&1 == 1 })
}

// candidate chooses a server for another leg: one that is not in use, has not
// diverged, and answers as far as we know. If none answers and the connection has no
// server, the others are tried in turn.
func (k *Kept) candidate() (int, bool) {
	if i, ok := k.another(false); ok {
		return i, true
	}
	if len(k.replicas()) > 0 {
		return 0, false
	}
	i, ok := k.another(true)
	if ok {
		k.last = i // the next try begins behind it
	}
	return i, ok
}

// enlist dials a server, to tell it the request from the checkpoint on.
func (k *Kept) enlist(i int) {
	r := &replica{k: k, server: i, start: k.ckpt, born: k.host.Now()}
	r.dial.since = r.born
	r.written = k.ckpt[replication.Request]
	response := k.ckpt[replication.Response]
	r.replicaOutput = replicaOutput{base: response, at: response, agreed: response, sum: newDigest(response), ad: adapter.Raw{}}
	_, r.checks = k.pool.Failing(i)
	r.line = k.line(i) // before it is dialled
	r.acked.Store(k.ckpt[replication.Request])
	if !raw(k.ad) {
		r.ad = k.svc.newAdapter() // a checkpoint is like a beginning
	}
	l, err := k.host.Dial(i, r)
	if err != nil {
		k.pool.Refused(i)
		return
	}
	l.Lone()
	r.leg = l
	k.addReplica(r)
	k.svc.counts.replays.Add(1)
}
