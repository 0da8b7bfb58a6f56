package replication

import (
	"fmt"

	"lockstep/replication/wire"
)

// Error is a constant error of this package; errors.Is finds it in what the core
// returns.
type Error string

func (e Error) Error() string { return string(e) }

const (
	ErrStaleEpoch  Error = "replication: older epoch than ours"
	ErrWrongEpoch  Error = "replication: epoch that we have not been told of"
	ErrNoSession   Error = "replication: no session with the peer"
	ErrSession     Error = "replication: a session with the peer is up"
	ErrRole        Error = "replication: not possible in this role"
	ErrNotInSync   Error = "replication: standby is not in sync, it may have missed state"
	ErrUnexpected  Error = "replication: frame does not belong here"
	ErrUnknownConn Error = "replication: unknown connection"
	ErrDuplicate   Error = "replication: connection exists already"
	ErrOffset      Error = "replication: offset contradicts what was said before"
	ErrFinPassed   Error = "replication: data after the stream's FIN"
	ErrIndex       Error = "replication: batch index is out of order"
	ErrRefusals    Error = "replication: more refused connections than can be in flight"
	ErrAckAhead    Error = "replication: acknowledgement of a batch that was not sent"
	ErrInvariant   Error = "replication: broken invariant"
	ErrVersion     Error = "replication: protocol version is not that of the session"
	ErrLimit       Error = "replication: a limit does not allow the connection to be protected"
	ErrVersionLeg  Error = "replication: the standby's protocol version does not know of a replaced server leg, or of connections that are passed on"
	ErrSpliced     Error = "replication: of a connection that is passed on there are no bytes to tell"
	ErrSegments    Error = "replication: a log of more segments than the limit"
	ErrPromise     Error = "replication: the peer bears silence for no time, or for longer than it counts on; is it another build?"
	ErrVersionLife Error = "replication: the standby's protocol version does not know of determinants"
	ErrUnknownLife Error = "replication: unknown life, or no such decision in it"
	ErrLimitLife   Error = "replication: a limit: nothing more is decided"
	ErrTold        Error = "replication: more determinants than our limits allow: both appliances need the same program version"
	ErrLater       Error = "replication: too much waits for the standby, the connection is asked for again"
)

// Core is the state machine of one appliance. Its methods must not run
// concurrently.
type Core struct {
	lim     Limits
	role    Role
	epoch   uint64 // of the active that we are or follow; never goes back
	joined  bool   // a session with the peer is up
	version uint8  // of the session's frames
	now     Nanos  // newest time passed in
	drops   [NumReasons]uint64

	ready, spare Ready // spare is what the last Ready call handed out

	act  active
	sb   standby
	beat heartbeat

	patience, fresh Nanos // see SetPatience
}

// New returns a core in RoleNone, epoch 0.
func New(lim Limits) *Core {
	c := &Core{lim: lim.withDefaults()}
	c.act.init(&c.lim)
	c.sb.init(&c.lim)
	return c
}

// Ready returns what is to be done since the last call; see type Ready.
func (c *Core) Ready() *Ready {
	c.ready, c.spare = c.spare, c.ready
	c.ready.reset()
	return &c.spare
}

// Pending reports whether Ready would return something.
func (c *Core) Pending() bool { return !c.ready.empty() }

// Role returns the current role.
func (c *Core) Role() Role { return c.role }

// InSync reports whether the standby could take over: on the active, that it has
// confirmed so in this session; on the standby, that its store is whole.
func (c *Core) InSync() bool {
	if c.role == RoleStandby {
		return c.sb.inSync
	}
	return c.role == RoleActive && c.joined && c.act.inSync
}

// SaidSynced reports that the standby of this session has been told, or is about to
// be, that it holds everything: from then on it may take over, whether its answer has
// come or not.
func (c *Core) SaidSynced() bool {
	return c.role == RoleActive && c.joined && c.act.snap.synced > 0
}

// Drained reports that the standby has confirmed everything that there was to say.
func (c *Core) Drained() bool {
	a := &c.act
	return !c.joined || a.inflight.len() == 0 && a.sealed.len() == 0 && a.cur.empty() && a.dirtyHead == len(a.dirty)
}

// Epoch returns the current epoch.
func (c *Core) Epoch() uint64 { return c.epoch }

// SetRole makes this appliance what the arbiter decided, in the given epoch, which
// never goes back. A change of role or epoch forgets all replicated state: to
// continue the peer's connections call Takeover instead. An active that is deposed
// must be muted by the shell before; its gates stay as they are.
func (c *Core) SetRole(role Role, epoch uint64) error {
	if epoch < c.epoch {
		c.drops[StaleEpoch]++
		return fmt.Errorf("become %v in epoch %d, now in %d: %w", role, epoch, c.epoch, ErrStaleEpoch)
	}
	if role == c.role && epoch == c.epoch {
		return nil
	}
	if role == RoleActive && c.role == RoleActive {
		// A later epoch of the same active: its connections go on. Frames carry the
		// epoch, so it cannot change within a session.
		if c.joined {
			return fmt.Errorf("change the epoch to %d: %w", epoch, ErrSession)
		}
		c.epoch = epoch
		return nil
	}
	c.role, c.epoch, c.joined = role, epoch, false
	c.act.init(&c.lim)
	c.sb.init(&c.lim)
	return nil
}

// PeerJoined begins a session: the sync link is up and the peer has the other role
// in our epoch. version is what both have agreed to speak (wire.Hello.Common). On
// the standby the store starts empty, not in sync; the active asks for the
// connections that run already (Ready.Adopt), if the version allows it.
func (c *Core) PeerJoined(now Nanos, version uint8) error {
	c.advance(now)
	switch {
	case c.joined:
		return ErrSession
	case version < wire.MinVersion || version > wire.Version:
		return fmt.Errorf("begin a session of version %d: %w", version, ErrVersion)
	case c.role == RoleActive:
		c.act.begin(c, version)
	case c.role == RoleStandby:
		c.sb.init(&c.lim)
		c.sb.version = version
		c.sb.why = "session has just begun"
	default:
		return ErrRole
	}
	c.joined, c.version = true, version
	c.beat.begin(c.now, version, c.lim.FailureTimeout)
	if c.beat.clockSet {
		// The first heartbeat, which tells our clock, leaves before anything by which the
		// peer could continue a connection (invariant 7); to an older peer, beside the first.
		c.beat.tick(c.now, c.lim.Heartbeat)
	}
	return nil
}

// PeerLost ends the session. On the active every gate opens: call it only when it
// is decided that the standby of this session will never take over. Until then
// (the link is down, the arbiter has not answered) do not call it; gates stay
// closed and nothing is lost. On the standby the store stays for Takeover.
func (c *Core) PeerLost() {
	if !c.joined {
		return
	}
	c.joined = false
	c.beat.end()
	switch c.role {
	case RoleActive:
		c.act.release(c)
	case RoleStandby:
		c.sb.end()
	}
}

// Tick does what is due at now; NextTick says when to call it.
func (c *Core) Tick(now Nanos) {
	c.advance(now)
	if c.joined {
		c.beat.tick(c.now, c.lim.Heartbeat)
	}
	switch c.role {
	case RoleActive:
		if c.joined {
			c.act.tick(c)
		}
	case RoleStandby:
		c.sb.expire(c.now)
	}
}

// NextTick returns the point in time at which Tick has something to do, not
// before now; Never if only another input can change that.
func (c *Core) NextTick(now Nanos) Nanos {
	at := Never
	if c.joined {
		at = c.beat.due
		if silent := c.silentAt(); silent > now {
			at = min(at, silent) // later it is PeerSilent, and no reason to wake up
		}
		if c.role == RoleActive {
			at = min(at, c.act.nextTick())
		}
	}
	if c.role == RoleStandby {
		at = min(at, c.sb.nextExpiry())
	}
	return max(at, now)
}

// PeerSilent reports whether a session is up and nothing has been heard of the
// peer for Limits.FailureTimeout, or for as long as SetPatience has said.
func (c *Core) PeerSilent(now Nanos) bool { return c.joined && now >= c.silentAt() }

// SetPatience tells how long the peer's silence is to be borne: never less than
// what was promised (Promise), which is what the lease of an active ends by. fresh, unless it is
// 0, is how long after the newest heartbeat that the peer has answered (Confirmed)
// silence is to be judged at the latest, though not before what was promised either.
func (c *Core) SetPatience(silence, fresh Nanos) { c.patience, c.fresh = silence, fresh }

// silentAt is when the peer's silence will have lasted too long.
func (c *Core) silentAt() Nanos {
	least := c.beat.heard + c.Promised().Most.Wait
	at := c.beat.heard + c.patience
	if c.fresh > 0 {
		at = min(at, c.beat.heardUs+c.fresh)
	}
	return max(at, least)
}

// Step takes one whole frame from the peer; nothing of msg is kept. After an error
// the session must be closed: PeerLost, or on the active the arbiter's decision.
func (c *Core) Step(now Nanos, msg []byte) error {
	c.advance(now)
	h, payload, err := wire.Decode(msg)
	if err != nil {
		c.drops[BadFrame]++
		return fmt.Errorf("decode frame of %d bytes: %w", len(msg), err)
	}
	if err := c.admit(&h); err != nil {
		return fmt.Errorf("%v frame of epoch %d, we are %v in %d: %w", h.Type, h.Epoch, c.role, c.epoch, err)
	}
	switch {
	case h.Type == wire.TypeBatch && c.role == RoleStandby:
		if err = c.sb.apply(c.now, h.Index, payload); err != nil {
			c.drops[BadBatch]++
		}
		c.drops[TombstoneEvicted] += c.sb.evicted
		c.sb.evicted = 0
	case h.Type == wire.TypeAck && c.role == RoleActive:
		err = c.act.step(c, h.Index, payload)
	case h.Type == wire.TypeHeartbeat:
		if err = c.beat.step(c.now, h.Version, h.Index, payload); err != nil {
			c.drops[BadFrame]++
		}
	case h.Type == wire.TypeFitness:
		err = c.beat.fitness(payload)
	case h.Type == wire.TypeOrders:
		err = c.beat.orders.hear(payload)
	case h.Type == wire.TypeHeartbeatAck:
		c.beat.answered(c.now, h.Index)
	default:
		c.drops[BadFrame]++
		err = ErrUnexpected
	}
	if err != nil {
		return fmt.Errorf("%v %d of epoch %d: %w", h.Type, h.Index, h.Epoch, err)
	}
	c.beat.heard = c.now
	return nil
}

// admit refuses frames of another epoch: after a takeover the old active may still
// have some on their way (invariant 4).
func (c *Core) admit(h *wire.Header) error {
	switch {
	case h.Epoch < c.epoch:
		c.drops[StaleEpoch]++
		return ErrStaleEpoch
	case h.Epoch > c.epoch:
		c.drops[WrongEpoch]++
		return ErrWrongEpoch
	case !c.joined:
		c.drops[NoSession]++
		return ErrNoSession
	case h.Version != c.version:
		c.drops[BadFrame]++
		return ErrVersion
	}
	return nil
}

// Flushable reports whether Flush would append something.
func (c *Core) Flushable() bool {
	if !c.joined {
		return false
	}
	return c.beat.flushable() || c.sb.ackDue || c.act.flushable()
}

// Flush appends the frames that should be sent now: at most one batch, the newest
// acknowledgement, heartbeats. Call it until Flushable reports false.
//
// If dst is empty, its storage belongs to the core from now on and the result is
// storage that belongs to the caller: a batch changes hands without being copied.
// The way to use it: buf = core.Flush(buf[:0]).
func (c *Core) Flush(dst []byte) []byte {
	if !c.joined {
		return dst
	}
	first := c.beat.first() && c.version >= wire.ClockVersion
	if first {
		dst = c.beat.flush(dst, c.version, c.epoch, c.act.unprotected)
	}
	dst = c.act.flush(dst, c.epoch, c.now)
	dst = c.sb.flush(dst, c.epoch)
	if first {
		return dst
	}
	return c.beat.flush(dst, c.version, c.epoch, c.act.unprotected)
}

// advance moves the core's time, which does not go back.
func (c *Core) advance(now Nanos) {
	if now > c.now {
		c.now = now
	}
}

// Stats returns the counters.
func (c *Core) Stats() Stats {
	s := Stats{
		Role: c.role, Epoch: c.epoch, PeerJoined: c.joined,
		RTT: c.beat.rtt, Drops: c.drops,
	}
	switch c.role {
	case RoleActive:
		c.act.stats(&s, c.joined)
		s.lacking(s.Unprotected)
	case RoleStandby:
		c.sb.stats(&s)
		s.lacking(int(c.beat.peerUnprotected))
	default:
		s.Why = "no role yet"
	}
	return s
}
