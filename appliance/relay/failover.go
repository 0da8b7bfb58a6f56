package relay

import (
	"slices"
	"time"

	"lockstep/appliance/pool"
	"lockstep/replication"
	"lockstep/stack"
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
	// silentMin is how long a server may be silent, at first, while another one that has
	// the same request goes on; silentMax bounds it.
	silentMin = 100 * time.Millisecond
	silentMax = 5 * time.Second
	// maxReplicas of one connection; more servers are spares.
	maxReplicas = 3
)

// lose gives up one server's leg. Its server is reset: should it be alive, it must
// not go on with half a connection.
func (c *Conn) lose(r *replica, why string) {
	k := c.kept
	if r == k.source {
		k.lostAt, k.lostWhy, k.retryAt = c.r.now(), why, 0
		k.claim = claim{}
		c.drain.on.Store(false)
		c.svc.counts.lost.Add(1)
		c.svc.note(Loss{Server: r.server, Why: why, Conn: c.ID, Source: true})
	} else if r.leg.Established() {
		c.svc.note(Loss{Server: r.server, Why: why, Conn: c.ID})
	}
	k.remove(r)
	if r.leg.Err() == nil {
		r.leg.Abort()
	} else {
		r.leg.Drop()
	}
	k.since = 0
}

// dismiss lets go of legs that have ended or whose server is down, and judges the
// source's end.
func (c *Conn) dismiss() {
	k := c.kept
	now := c.r.now()
	for _, r := range k.replicas() {
		err := r.leg.Err()
		switch {
		case err == nil && r == k.source && c.streams[replication.Response].finPassed:
			if down, _ := c.svc.Pool.Failing(r.server); down {
				c.retire(r)
			}
		case err == nil && c.unhealthy(r):
			c.lose(r, "its health check fails")
		case err == nil && !r.leg.Established() && now-r.born > dialAnswer && r != k.source:
			c.svc.Pool.Refused(r.server)
			c.lose(r, "does not answer")
		case err == nil:
		case r == k.source:
			c.sourceFailed(r, err)
		default:
			if r.at == 0 || err == stack.ErrRefused {
				c.svc.Pool.Refused(r.server)
			}
			if err == stack.ErrReset {
				c.refused(r, "was reset")
			}
			c.lose(r, err.Error())
		}
		if c.phase == phaseDone {
			return
		}
	}
}

// unhealthy reports whether r is to be given up because its server's health check
// fails. A source is kept if there is no other: nothing is won by taking it away, and
// the check itself may be wrong. Another one that was begun with in spite of the check,
// because there was none better, has until a later check fails, or until there is one.
func (c *Conn) unhealthy(r *replica) bool {
	down, checks := c.svc.Pool.Failing(r.server)
	switch {
	case !down:
		return false
	case r == c.kept.source:
		return c.spare() || c.stands(r)
	default:
		return checks > r.checks || c.spare()
	}
}

// spare reports whether there is a server for another leg that is not known to be down.
func (c *Conn) spare() bool {
	if c.kept.plain {
		return false
	}
	_, ok := c.another(false)
	return ok
}

// another is a server for another leg, which must not be known to be down unless any will
// do.
func (c *Conn) another(any bool) (int, bool) {
	used := c.kept.used()
	return c.svc.Pool.Next(pool.Want{
		Client: c.client.Params().Remote, After: c.serverIdx, Any: any,
		Not: func(i int) bool { return used>>uint(i)&1 == 1 },
	})
}

// used are the servers that cannot be given another leg, by bit: those that have one,
// and those that have diverged.
func (k *kept) used() uint64 {
	used := k.bad
	for _, r := range k.replicas() {
		used |= 1 << uint(r.server)
	}
	return used
}

// stands reports whether another replica could take r's place.
func (c *Conn) stands(r *replica) bool {
	for _, x := range c.kept.replicas() {
		if x == r || x.doubt || !x.leg.Established() {
			continue
		}
		if down, _ := c.svc.Pool.Failing(x.server); !down {
			return true
		}
	}
	return false
}

// elect verifies the replicas, and chooses the one whose bytes the client gets.
func (c *Conn) elect() {
	k := c.kept
	for _, r := range k.replicas() {
		if r == k.source || !slices.Contains(k.replicas(), r) {
			continue
		}
		doubted := r.doubtAt
		found := r.verify(k)
		if r.doubt {
			found = diverged // until the third one has decided
		}
		if r.doubt && r.doubtAt != doubted {
			c.wakeAt(0) // one before it may have to be followed to there
		}
		switch found {
		case diverged:
			c.disagree(r)
		case early:
			c.refused(r, "ended")
			c.lose(r, "ended before the point that another one has reached")
		}
		if c.phase == phaseDone {
			return
		}
	}
	s := &c.streams[replication.Response]
	if s.finPassed {
		return
	}
	if k.source == nil {
		for _, r := range k.replicas() {
			if !r.doubt && r.leg.Established() && r.at == k.seen.end {
				c.promote(r)
				break
			}
		}
		return
	}
	ahead, speaks := c.ahead()
	if ahead != nil {
		if ok, _ := c.vouched(); !ok {
			ahead = nil // the source may still send those bytes again
		}
	}
	switch {
	case ahead == nil:
		k.since = 0
	case c.svc.ReleaseFirst && speaks:
		c.switchTo(ahead)
	case k.since == 0 || k.sinceAcked != k.source.acked.Load():
		k.since, k.sinceAcked = c.r.now(), k.source.acked.Load()
		c.wakeAt(k.since + k.silentFor)
	case c.r.now()-k.since < k.silentFor:
		c.wakeAt(k.since + k.silentFor)
	default:
		// It may only be slow: its leg stays, and its health check decides. The more
		// often that happens, the longer it is waited for.
		k.silentFor = min(2*k.silentFor, silentMax)
		c.svc.note(Loss{Server: k.source.server, Why: "silent while another one goes on", Conn: c.ID, Source: true})
		c.switchTo(ahead)
	}
}

// switchTo lets the client have the bytes of another replica, which is in step. The
// former source is compared from now on.
func (c *Conn) switchTo(r *replica) {
	k := c.kept
	old := k.source
	if old.sum == nil {
		old.sum = newDigest(0)
	}
	old.agreed = k.seen.end
	old.sum.copyFrom(k.seen.open)
	if k.ad != nil {
		old.ad = k.adapterAt(c.svc, k.ad.State(nil), old.written)
	}
	k.source, k.since, k.claim = r, 0, claim{}
	c.server, c.serverIdx = r.leg, r.server
	c.svc.counts.switched.Add(1)
}

// ahead is a replica that has bytes for the client while the source has none (speaks),
// or that takes the request while the source does not.
func (c *Conn) ahead() (r *replica, speaks bool) {
	k, s := c.kept, &c.streams[replication.Response]
	if len(k.replicas()) < 2 || s.next < k.seen.end || len(k.holds(s.next)) > 0 {
		return nil, false
	}
	silent := !has(k.source, k.seen.end)
	takes := k.source.acked.Load() >= k.log.end
	for _, r = range k.replicas() {
		if r == k.source || r.doubt || r.at != k.seen.end || !r.leg.Established() {
			continue
		}
		if speaks = silent && (has(r, k.seen.end) || r.ended); speaks || !takes && r.acked.Load() >= k.log.end {
			return r, speaks
		}
	}
	return nil, false
}

// has reports whether r's server has sent bytes from off on.
func has(r *replica, off uint64) bool {
	if !r.leg.Established() || off < r.base {
		return false
	}
	_, n, _ := r.leg.Peek(nil, int(off-r.base), 1)
	return n > 0
}

// vouched reports whether another server's bytes may follow what the client has. After
// a takeover it may have more than the digests cover: what the former active released
// in its last moment. Nobody can say whether another server's are the same (invariant
// 6). lost: so it is, and not only that the client has not said yet how far it is.
func (c *Conn) vouched() (ok, lost bool) {
	if !c.kept.restored {
		return true, false
	}
	has, said := c.client.PeerHas()
	if !said {
		c.askClient()
	}
	return said && has <= c.kept.seen.end, said && has > c.kept.seen.end
}

// askClient asks the client how far it is, and again after a while.
func (c *Conn) askClient() {
	k, now := c.kept, c.r.now()
	if now >= k.askAt {
		k.askAt = now + redialMax
		c.client.AskPeer()
	}
	c.wakeAt(k.askAt)
}

// promote makes r the source: what it has sent is verified up to where the client is
// to go on.
func (c *Conn) promote(r *replica) {
	k := c.kept
	if ok, lost := c.vouched(); !ok {
		if lost {
			c.svc.counts.unverified.Add(1)
			c.abort()
		}
		return
	}
	if k.lostAt != 0 {
		c.svc.counts.failovers.Add(1)
		c.svc.note(Loss{Server: r.server, Why: k.lostWhy, Conn: c.ID, Took: c.r.now() - k.lostAt, Source: true, Replaced: true})
	}
	k.source, k.lostAt, k.since = r, 0, 0
	k.claim = claim{}
	c.server, c.serverIdx = r.leg, r.server
}

// disagree deals with a replica whose output differs from what was released.
func (c *Conn) disagree(r *replica) {
	k := c.kept
	others := 0
	for _, x := range k.replicas() {
		switch {
		case x == r || x == k.source:
		case r.doubt && x.doubt && x.doubtAt == r.doubtAt && x.doubtSum == r.doubtSum:
			// Two against one: what the client has got is wrong, and can not be taken back.
			c.diverged(r, r.doubtAt)
			c.svc.note(Loss{Server: c.serverIdx, Why: "two others agree that its output is wrong", Conn: c.ID, Source: true})
			c.abort()
			return
		case !x.doubt && x.agreed < r.doubtAt, x.differs(r):
			others++ // it will say
		}
	}
	if others > 0 && r.doubt {
		return
	}
	c.diverged(r, max(r.doubtAt, k.seen.next(r.at)))
	k.bad |= 1 << uint(r.server)
	c.lose(r, "its output differs from what the client has got")
	for _, x := range k.replicas() {
		if x.doubt {
			c.disagree(x) // it waited for this one
			return
		}
	}
}

// recruit sees to it that the connection has the servers that it should have.
func (c *Conn) recruit() {
	k := c.kept
	if c.streams[replication.Response].finPassed {
		return
	}
	have, want := len(k.replicas()), 1
	if c.svc.Hot {
		want = min(c.svc.Pool.Len(), maxReplicas)
	}
	now := c.r.now()
	if k.source == nil && c.hopeless(now, have) {
		c.svc.counts.givenUp.Add(1)
		c.abort()
		return
	}
	for _, r := range k.replicas() {
		if !r.leg.Established() {
			c.wakeAt(r.born + dialAnswer)
		}
	}
	if have >= want || k.plain {
		return
	}
	if now < k.retryAt {
		c.wakeAt(k.retryAt)
		return
	}
	pause := redialMax
	if k.source == nil {
		pause = min(max(redialMin, (now-k.lostAt)/4), redialMax)
		if k.refused != nil { // they answer, but do not follow: often is no use
			pause = max(pause, min((now-k.lostAt)/4, refusedMax))
		}
	}
	k.retryAt = now + pause
	for ; have < want; have++ {
		i, ok := c.candidate()
		if !ok {
			break
		}
		c.enlist(i)
	}
	if have < want {
		c.wakeAt(k.retryAt)
	}
}

// hopeless reports whether nobody can continue the connection any more.
func (c *Conn) hopeless(now time.Duration, have int) bool {
	k := c.kept
	c.wakeAt(k.lostAt + c.svc.Patience)
	switch {
	case have > 0 && now-k.lostAt < c.svc.Patience:
		return false
	case k.plain:
		return true
	}
	all := uint64(1)<<uint(c.svc.Pool.Len()) - 1
	return now-k.lostAt >= c.svc.Patience || have == 0 && k.bad&all == all
}

// candidate chooses a server for another leg: one that is not in use, has not
// diverged, and answers as far as we know. If none answers and the connection has no
// server, the others are tried in turn.
func (c *Conn) candidate() (int, bool) {
	if i, ok := c.another(false); ok {
		return i, true
	}
	if len(c.kept.replicas()) > 0 {
		return 0, false
	}
	i, ok := c.another(true)
	if ok {
		c.serverIdx = i // the next try begins behind it
	}
	return i, ok
}

// enlist dials a server, to tell it the request from the checkpoint on.
func (c *Conn) enlist(i int) {
	k := c.kept
	r := &replica{
		c: c, server: i, start: k.ckpt, born: c.r.now(), sum: newDigest(k.ckpt[replication.Response]),
		written: k.ckpt[replication.Request], base: k.ckpt[replication.Response], at: k.ckpt[replication.Response],
		agreed: k.ckpt[replication.Response],
	}
	_, r.checks = c.svc.Pool.Failing(i)
	r.acked.Store(k.ckpt[replication.Request])
	if k.ad != nil {
		r.ad = c.svc.NewAdapter() // a checkpoint is like a beginning
	}
	l, err := c.r.dialServer(c, i, r)
	if err != nil {
		c.svc.Pool.Refused(i)
		return
	}
	r.leg = l
	c.addReplica(r)
	c.svc.counts.replays.Add(1)
}

// wakeAt runs the connection again at t.
func (c *Conn) wakeAt(t time.Duration) {
	k := c.kept
	now := c.r.now()
	if k.wakeDue > now && k.wakeDue <= t {
		return
	}
	k.wakeDue = max(t, now+time.Millisecond)
	time.AfterFunc(k.wakeDue-now, func() { c.r.sched.add(c, false) })
}
