package roles

import "lockstep/replication"

// A pair without a witness decides by what each of the two knows. These are the rules,
// and why they hold:
//
//   - An active with a standby in sync speaks by a lease: from when the newest heartbeat
//     that the standby answered was sent, for a little less than what the standby has
//     promised to bear silence for (FailureTimeout, or more where it is late). The
//     standby takes over because of silence only when it has heard nothing for all of
//     that, so by then the active is mute.
//   - An active whose session has ended keeps its gates closed to the end of its lease.
//     Then it falls silent and asks both networks who holds the addresses. Only when
//     nobody has answered for doubtTime does it go on alone, and acknowledges what
//     nobody else holds. Earlier it does so only if the standby's own kernel says that
//     its process is dead, or if the standby says that it has given up its store.
//   - An active that looks late at the end of its lease (it was stopped or starved) may
//     have had a successor that is gone by now. That one has announced itself, and its
//     frames wait in the sockets. If there are any the active goes on only if the
//     standby that it had says itself that it has not taken over.
//   - An active that hands over falls silent, says that it is none, and asks in the same
//     way: if nobody has taken over it goes on. After a claim that it hears meanwhile it
//     does so only if its standby says that it has not.
//   - So a standby knows until when its store cannot be behind: it continues it only
//     within takeTime of a heartbeat of its own that the active has answered. Whoever
//     was not running (stopped, suspended, starved) is later than that when it wakes,
//     whatever it finds: a closed session, silence, a peer that is dead by now. It
//     gives its store up and asks.
//   - The end of a session is no death. The peer's own kernel refusing its port is one;
//     a peer that says that it is not active is as good; silence for what
//     was promised is taken for one.
//   - Who holds nothing becomes active only when whoever may hold connections has been
//     silent for StartEmptyAfter, or is proved dead.
//
// What cannot be known without a third voter: if the two are cut off from each other on
// all networks, both go on.

// AloneConfig are the times of a pair without a witness, equal on both.
type AloneConfig struct {
	Smaller                   bool  // our name is the smaller one of the two
	Heartbeat, FailureTimeout Nanos // see replication.Limits
	StartEmptyAfter           Nanos // see above
	Settle                    Nanos // how long a process that has just started looks for its peer at least
}

// doubtTime is how long a silent active asks before it goes on alone, if its standby counts on that.
func (c *AloneConfig) doubtTime(mute Nanos) Nanos { return 10*c.Heartbeat + mute + 200*millis }

// takeTime is how long after a confirmed heartbeat a store may be continued, if the active goes by that promise at least. The active
// goes on alone no earlier than doubtTime after the end of its lease, which is no more
// than a heartbeat and the link's delay shorter than the lease that the confirmed
// heartbeat gives. What is left of doubtTime is for our announcements to reach it.
func (c *AloneConfig) takeTime(p replication.Promise) Nanos { return p.Wait + c.doubtTime(p.Mute)*3/5 }

// ownLease is how long an active that nobody may replace speaks without looking at its
// clock: one that was not running for longer wakes up mute. Nobody who holds nothing
// starts within that.
func (c *AloneConfig) ownLease() Nanos { return c.StartEmptyAfter / 2 }

const (
	// askEvery spaces questions to the networks when it matters, askIdle when one waits.
	// answerIn is how long an answer may take.
	askEvery = 100 * millis
	askIdle  = 500 * millis
	answerIn = 300 * millis
	// claimWindow is how long after the beginning of going on alone somebody else's claim
	// may be the peer's. A claim is not authenticated, so the window is short.
	claimWindow = 10_000 * millis
	// claimPause is the least time between two questions because of a claim.
	claimPause = 1000 * millis
	// repeatIn is less than what lies between two announcements, and more than between the
	// copies of one.
	repeatIn = 5 * millis
)

type stage uint8

const (
	candidate stage = iota // no role
	following              // standby, in session
	bereft                 // standby, its session is over, its store may still be continued
	leading                // active, in session
	holding                // active, its session is over, its lease lasts
	doubting               // active, mute: has somebody taken over?
	solitary               // active, alone
)

func (s stage) String() string {
	return [...]string{"candidate", "following", "bereft", "leading", "holding", "doubting", "alone"}[s]
}

// Alone are the rules of one appliance of a pair without a witness. What it knows is grouped
// by the stages that read it.
type Alone struct {
	a     LoneAppliance
	cfg   AloneConfig
	stage stage
	begun Nanos // when this stage began
	dead  bool  // the peer's process is proved dead, since begun

	aloneStart
	aloneStandby
	aloneActive
	aloneDoubt
	aloneAsking
	aloneClaims
}

// aloneStart is a candidate's: when it may start without connections.
type aloneStart struct {
	knows bool  // somebody did hold connections
	seen  Nanos // the last sign of whoever may
	due   Nanos // not before
	stays bool  // said that somebody else holds the addresses
}

// aloneStandby is of following and bereft.
type aloneStandby struct {
	saidAt Nanos // when we last spoke before the session
}

// aloneActive is of leading, holding and doubting.
type aloneActive struct {
	standby Boot  // who was our standby last
	heardOf Nanos // of leading and holding: when somebody claimed our addresses; Never: nobody has
	handing bool  // of leading: a hand-over is under way, we are mute
}

// aloneDoubt is of doubting.
type aloneDoubt struct {
	at     Nanos // when it ends
	late   bool  // our standby may have taken over and died: we were not running, or have handed over
	told   bool  // and somebody has claimed our addresses
	handed bool  // our standby may take over, and we say that we are not active
}

// aloneAsking is of candidate and doubting: questions to the networks.
type aloneAsking struct {
	askAt   Nanos // the next one
	askFrom Nanos // of candidate: when the first one before the start was asked; Never: none was
	askedAt Nanos // of candidate: the last one; Never: none was
}

// aloneClaims is of solitary and doubting: somebody else's claims of our addresses.
type aloneClaims struct {
	newest   bool   // of solitary: we have taken over, so no claimant is a newer active
	claimAt  Nanos  // the last claim that was asked about; Never: none was
	claimant string // whose
}

// NewAlone returns the rules of an appliance that has just started.
func NewAlone(cfg AloneConfig, a LoneAppliance, now Nanos) *Alone {
	r := &Alone{a: a, cfg: cfg}
	r.idle(now, now+cfg.Settle)
	return r
}

// Stage implements Rules.
func (r *Alone) Stage() string {
	if r.Handed() {
		return HandingOver
	}
	return r.stage.String()
}

// Handed implements Rules.
func (r *Alone) Handed() bool { return r.handed || r.handing }

// Waits implements Rules: it is a candidate that does.
func (r *Alone) Waits() (until Nanos, waits bool) {
	return r.startAt(), r.stage == candidate
}

// whole reports, on a standby, whether its store could be continued.
func (r *Alone) whole() bool { return r.a.Role() == replication.RoleStandby && r.a.InSync() }

// SyncChanged implements Rules: what matters is looked at when it does.
func (r *Alone) SyncChanged() {}

// Decided implements Rules: there are no voters.
func (r *Alone) Decided(Nanos, Decision) {}

func (r *Alone) enter(s stage, now Nanos) {
	if s != holding && s != doubting {
		r.standby = Boot{}
	}
	if s != holding {
		r.heardOf = Never
	}
	r.stage, r.begun = s, now
	r.dead, r.handing, r.handed, r.stays = false, false, false, false
	r.aloneAsking = aloneAsking{askAt: now, askFrom: Never, askedAt: Never}
	r.aloneClaims = aloneClaims{claimAt: Never}
	r.a.Prove(s != following && s != leading)
}

// idle is where we have no role. Not before due do we become active by ourselves.
func (r *Alone) idle(now, due Nanos) {
	r.enter(candidate, now)
	r.seen, r.due = now, due
}

// startAt is when a candidate starts without connections.
func (r *Alone) startAt() Nanos {
	if r.dead {
		return max(r.due, r.begun+answerIn)
	}
	return max(r.due, r.seen+r.cfg.StartEmptyAfter)
}

// Next implements Rules.
func (r *Alone) Next() Nanos {
	switch r.stage {
	case candidate:
		return r.askAt
	case bereft:
		return min(r.silentAt(), r.freshUntil())
	case doubting:
		return min(r.at, r.askAt)
	}
	return Never
}

// Tick implements Rules. The lease of an active that is alone goes on by it.
func (r *Alone) Tick(now Nanos) {
	switch r.stage {
	case candidate:
		r.tickCandidate(now)
	case bereft:
		r.tickBereft(now)
	case leading:
		if !r.handing && !r.a.Replaceable() { // else the standby's answers are the lease
			r.renew(now)
		}
	case holding:
		if now >= r.a.Lease() {
			r.doubt(now, "the standby has not come back", true)
		}
	case doubting:
		r.tickDoubt(now)
	case solitary:
		r.renew(now)
	}
}

// renew is how an active that nobody may replace goes on, if it was running.
func (r *Alone) renew(now Nanos) {
	if now >= r.a.Lease() {
		r.a.CloseSession()
		r.doubt(now, "this process stood still", false)
		return
	}
	r.a.OwnLease(now + r.cfg.ownLease())
}

// tickCandidate asks both networks now and then, and often before it starts.
func (r *Alone) tickCandidate(now Nanos) {
	at := r.startAt()
	last := now >= at-answerIn
	if now > r.askAt+answerIn {
		r.askFrom = Never // we were not running, and have not heard the answers
	}
	if now >= r.askAt || last && r.askFrom == Never {
		r.a.Ask()
		r.askedAt, r.askAt = now, min(now+askIdle, max(at-answerIn, now+askEvery))
		if last && r.askFrom == Never {
			r.askFrom = now
		}
	}
	if now < at || r.askFrom == Never || now < r.askFrom+answerIn {
		return
	}
	why := "nobody else is heard"
	if r.dead {
		why = "the peer's process does not run"
	}
	// Not a new epoch: whoever has continued something has the newer one when we meet.
	r.startEmpty(now, max(r.a.Epoch(), 1), why, r.knows || !r.dead)
}

// startEmpty: lost tells that somebody may have held connections.
func (r *Alone) startEmpty(now Nanos, epoch uint64, why string, lost bool) {
	r.knows = false
	r.a.OwnLease(now + r.cfg.ownLease())
	what := ""
	if lost {
		what = why
	}
	r.a.StartEmpty(epoch, why, what)
	r.enter(solitary, now)
}

// freshUntil is until when our store cannot be behind.
func (r *Alone) freshUntil() Nanos {
	at, ok := r.a.Confirmed()
	if !ok {
		at = r.saidAt // the active began the session later
	}
	return at + r.cfg.takeTime(r.a.Promised().Least)
}

// silentAt is when the active's silence has lasted for longer than any lease that it can have.
func (r *Alone) silentAt() Nanos {
	return r.a.Heard() + r.a.Promised().Most.Wait
}

// doubtTime is this active's, by what its standby may go by.
func (r *Alone) doubtTime() Nanos { return r.cfg.doubtTime(r.a.PeerPromise().Mute) }

// tickBereft is a standby's that has lost its session.
func (r *Alone) tickBereft(now Nanos) {
	switch {
	case now > r.freshUntil():
		r.giveUp(now, "the active may have gone on without this standby")
	case now >= r.silentAt() && !r.a.CutOff():
		r.takeOver(now, r.a.Epoch()+1, ActiveSilent)
	}
}

func (r *Alone) takeOver(now Nanos, epoch uint64, why string) {
	r.a.OwnLease(now + r.cfg.ownLease())
	if err := r.a.Continue(epoch, now, why); err != nil {
		r.giveUp(now, err.Error())
		return
	}
	r.enter(solitary, now)
	r.newest = true
}

// giveUp is where a standby's store is of no use any more. The former active may still
// hold what was in it.
func (r *Alone) giveUp(now Nanos, why string) {
	dead := r.dead
	r.a.GiveUp(why)
	r.idle(now, now)
	r.knows, r.dead = true, dead
}

// doubt is where an active is whose lease has ended. If it is replaceable, its standby
// may have taken over; else somebody may have started without its connections.
func (r *Alone) doubt(now Nanos, why string, replaceable bool) {
	r.a.Mute()
	r.a.Say(Silent, why)
	r.inDoubt(now, replaceable)
}

// inDoubt is where an active is that is mute.
func (r *Alone) inDoubt(now Nanos, replaceable bool) {
	heardOf := r.heardOf // an announcement may be read before the session's end is
	r.enter(doubting, now)
	r.at = now + r.doubtTime()
	r.late = replaceable && now > r.a.Lease()+r.cfg.lateAfter()
	r.told = false
	if r.late && heardOf != Never && heardOf >= r.a.Lease() {
		r.told, r.at = true, now+r.cfg.StartEmptyAfter
	}
	r.tickDoubt(now)
}

func (r *Alone) tickDoubt(now Nanos) {
	if stopped := now > r.askAt+answerIn; stopped || r.a.CutOff() { // nobody could be heard
		r.late = r.late || stopped && !r.standby.none()
		r.at = max(r.at, now+r.doubtTime())
	}
	if now >= r.askAt {
		r.a.Ask()
		r.askAt = now + askEvery
	}
	switch {
	case now < r.at && !(r.told && r.dead):
	case r.told:
		r.stepDown(now, "somebody has taken over, and cannot be asked any more")
		r.seen = now - r.cfg.StartEmptyAfter // it was waited for
	default:
		r.goOn(now, "nobody has taken over")
	}
}

// goOn is where an active is on its own from now on.
func (r *Alone) goOn(now Nanos, why string) {
	dead := r.dead
	r.a.GoOn(now + r.cfg.ownLease())
	r.enter(solitary, now)
	r.dead = dead
	r.a.Say(GoesOnAlone, why)
}

// stepDown is where an active is none any more, because another one is, or may have
// been.
func (r *Alone) stepDown(now Nanos, why string) {
	dead := r.dead
	r.a.Mute()
	r.a.CloseSession()
	r.a.StepDown(why)
	r.idle(now, now)
	r.knows, r.dead = true, dead
}

// SessionLost implements Rules.
func (r *Alone) SessionLost(now Nanos, why string) bool {
	if r.handing {
		r.handedOver(now)
		return true
	}
	replaceable := r.a.Replaceable()
	if !r.a.CloseSession() {
		return false
	}
	switch {
	case r.stage == following && !r.whole():
		r.giveUp(now, "the active was lost before this standby was in sync: "+why)
	case r.stage == following:
		r.a.Release() // the store stays
		r.enter(bereft, now)
		r.a.Say(ActiveLost, why)
		r.tickBereft(now)
	case r.stage != leading:
	case now >= r.a.Lease():
		r.doubt(now, why, replaceable)
	case !replaceable:
		r.goOn(now, why)
	default:
		r.enter(holding, now)
		r.a.Say(StandbyLost, why)
	}
	return true
}

// Refused implements Rules.
func (r *Alone) Refused(now Nanos) {
	if r.stage == following || r.stage == leading {
		return
	}
	r.dead = true
	switch r.stage {
	case bereft:
		if now > r.freshUntil() {
			r.giveUp(now, "the active has died, and may have gone on without this standby before")
			return
		}
		r.takeOver(now, r.a.Epoch()+1, "the active's process is dead")
	case holding:
		if now >= r.a.Lease() {
			r.doubt(now, "the standby's process is dead", true)
			return
		}
		r.goOn(now, "the standby's process is dead")
	}
}

// Claimed implements Rules. A claim is not authenticated: nobody steps down for one
// without having asked, and been answered.
func (r *Alone) Claimed(now Nanos, who string) {
	switch r.stage {
	case candidate:
		if r.askedAt == Never || now-r.askedAt > answerIn {
			return // we have not asked: an answer is worth more than an announcement
		}
		if !r.stays {
			r.stays = true
			r.a.Say(StaysBack, who)
		}
		r.seen, r.due, r.askFrom = now, now+r.cfg.Settle, Never
	case leading, holding:
		r.heardOf = now // of use only if the lease is over by now, see doubt
	case doubting:
		if r.contested(now, who, askEvery) {
			r.stepDown(now, "the peer has taken over")
			return
		}
		if r.late && !r.told {
			r.told, r.at = true, now+r.cfg.StartEmptyAfter
		}
		r.at = max(r.at, min(now+answerIn, r.begun+2*r.doubtTime()))
	case solitary:
		// The claimant can be the peer only if that lives, and if neither could hear the
		// other when we went on.
		if !r.dead && !r.newest && now-r.begun <= claimWindow && r.contested(now, who, claimPause) {
			r.doubt(now, "somebody else answers for our addresses", false)
		}
	}
}

// contested reports whether the claimant has answered a question that we asked after an
// earlier claim of his. If not it asks, once in pause.
func (r *Alone) contested(now Nanos, who string, pause Nanos) bool {
	if r.claimAt != Never && who == r.claimant && now-r.claimAt >= repeatIn && now-r.claimAt <= answerIn {
		return true
	}
	if r.claimAt == Never || now-r.claimAt >= pause {
		r.claimAt, r.claimant = now, who
		r.a.Ask()
	}
	return false
}
