package replication

import "lockstep/replication/wire"

// clockMargin: a fiftieth of a time that two clocks measure. Each may be off in speed by
// one per cent, so one may come to its end two per cent before the other one.
const clockMargin = 50

// LeaseTime is how long an active may speak after it has said something that was answered,
// by its own clock, when its successor waits for failureTimeout by another clock: shorter
// by what the two may differ.
func LeaseTime(failureTimeout Nanos) Nanos { return failureTimeout - failureTimeout/clockMargin }

// heartbeat keeps the session's liveness, its round trip and the peer's clock.
// Both sides send heartbeats and answer them.
type heartbeat struct {
	due   Nanos // when the next one is to be sent
	heard Nanos // when the last valid frame came

	seq     uint64 // of the newest heartbeat
	send    bool   // seq waits for Flush
	millis  uint32 // its clock reading
	answer  uint64 // peer's heartbeat to be answered; 0: none
	sentAt  [sentRing]Nanos
	counted uint64 // newest of ours that was answered

	// heardUs is when the newest of our heartbeats that was answered was made: since
	// then at the latest the peer knows that we live.
	heardUs Nanos

	rtt Nanos

	// Our own millisecond clock, as told by SetClock.
	clockAt     Nanos
	clockMillis uint32
	clockSet    bool

	// peerOffset = peer's clock - ours, milliseconds modulo 2^32. The largest seen:
	// it came with the smallest delay, and an estimate that is behind the truth could
	// make a timestamp go back (invariant 7).
	peerOffset uint32
	peerKnown  bool

	// peerUnprotected is how many connections the active could not hand over, as it
	// last said: those of before the session, and those beyond a limit.
	peerUnprotected uint32

	promises
	fitnessNews
	orders orders
}

// fitnessNews is what the two say of whether they could serve.
type fitnessNews struct {
	// ours is what SetFitness told, if it was called, and survives a session; saying: it
	// waits for Flush.
	ours   wire.Fitness
	told   bool
	saying bool
	// peers is what the peer last said of itself. An older peer says no more than
	// whether it is fit.
	peers     wire.Fitness
	peerSaid  bool
	news      bool // see FitnessSaid
	peerUnfit bool
}

// sentRing is how many heartbeats can be unanswered and still give a round trip.
const sentRing = 16

func (h *heartbeat) begin(now Nanos, version uint8, failureTimeout Nanos) {
	*h = heartbeat{
		due: now, heard: now, heardUs: now, clockAt: h.clockAt, clockMillis: h.clockMillis, clockSet: h.clockSet,
		fitnessNews: fitnessNews{ours: h.ours, told: h.told, saying: h.told && version >= wire.FitnessVersion},
		orders:      h.orders.begin(version),
	}
	h.promises.begin(failureTimeout)
}

// end keeps what a takeover needs: the peer's clock.
func (h *heartbeat) end() {
	h.send, h.answer, h.shortened, h.saying, h.orders.saying = false, 0, 0, false, false
}

func (h *heartbeat) tick(now, period Nanos) {
	if now < h.due {
		return
	}
	h.seq++
	h.send = true
	h.millis = h.millisAt(now)
	h.sentAt[h.seq%sentRing] = now
	h.promises.send(h.seq)
	h.due = now + period
}

func (h *heartbeat) flushable() bool { return h.send || h.answer != 0 || h.saying || h.orders.saying }

// first: the session's first heartbeat waits for Flush.
func (h *heartbeat) first() bool { return h.send && h.seq == 1 }

func (h *heartbeat) flush(dst []byte, version uint8, epoch uint64, unprotected int) []byte {
	if h.answer != 0 {
		dst = wire.AppendHeartbeatAck(dst, version, epoch, h.answer)
		h.answer = 0
	}
	if h.saying {
		dst = wire.AppendFitness(dst, version, epoch, &h.ours)
		h.saying = false
	}
	if h.orders.saying {
		dst = wire.AppendOrders(dst, version, epoch, h.orders.ours)
		h.orders.saying = false
	}
	if h.send {
		said := &h.said[h.seq%sentRing]
		dst = wire.AppendHeartbeat(dst, version, epoch, h.seq, wire.Heartbeat{
			ClockMillis: h.millis, Unprotected: uint32(unprotected), Unfit: len(h.ours.Faults) > 0,
			WaitMicros: uint32(said.Wait / microsecond), MuteMicros: uint32(said.Mute / microsecond),
		})
		h.send = false
	}
	return dst
}

// step takes the peer's heartbeat seq.
func (h *heartbeat) step(now Nanos, version uint8, seq uint64, payload []byte) error {
	hb, err := wire.DecodeHeartbeat(version, payload)
	if err != nil {
		return err
	}
	atOnce := true
	if version >= wire.PromiseVersion {
		if atOnce, err = h.hear(seq, &hb); err != nil {
			return err
		}
	}
	if atOnce {
		h.answer = seq
	}
	h.peerUnprotected, h.peerUnfit = hb.Unprotected, hb.Unfit
	offset := hb.ClockMillis - h.millisAt(now)
	if !h.peerKnown || int32(offset-h.peerOffset) > 0 {
		h.peerOffset, h.peerKnown = offset, true
	}
	return nil
}

// answered takes the answer to our heartbeat seq.
func (h *heartbeat) answered(now Nanos, seq uint64) {
	if seq <= h.counted || seq > h.seq || h.seq-seq >= sentRing {
		return // answered already, never sent, or too long ago
	}
	h.counted = seq
	h.heardUs = h.sentAt[seq%sentRing]
	h.promises.answered(seq, h.seq)
	sample := now - h.heardUs
	if h.rtt == 0 {
		h.rtt = sample
		return
	}
	h.rtt += (sample - h.rtt) / 8 // as RFC 6298, 2.3
}

func (h *heartbeat) millisAt(now Nanos) uint32 {
	return h.clockMillis + uint32((now-h.clockAt)/millisecond)
}

// SetClock tells the reading of our TSval clock (milliseconds, RFC 7323, 5.4) at
// now. The core follows it from there on by the time that is passed in.
func (c *Core) SetClock(now Nanos, millis uint32) {
	c.beat.clockAt, c.beat.clockMillis, c.beat.clockSet = now, millis, true
}

// PeerClock estimates the peer's TSval clock from ours. The estimate may be behind
// the truth by the smallest one-way delay of the heartbeats and the two clocks'
// rounding: at most RTT + 2 ms; a new active adds that to its timestamps. It
// survives PeerLost.
func (c *Core) PeerClock(ownMillis uint32) (est uint32, ok bool) {
	return ownMillis + c.beat.peerOffset, c.beat.peerKnown && c.beat.clockSet
}

// RTT is the smoothed round trip of heartbeats; 0: not known.
func (c *Core) RTT() Nanos { return c.beat.rtt }

// HeardUs is a point in time since which, at the latest, the peer knows that this
// appliance lives: when the newest answered heartbeat was sent, not when the answer
// came. A standby does not take over because of silence before what it has promised (PeerPromise) has
// passed since then, so until then the active may speak (invariant 4).
func (c *Core) HeardUs() Nanos { return c.beat.heardUs }

// Heard is when the newest frame of this session, or of the last one, came; its beginning
// if none did.
func (c *Core) Heard() Nanos { return c.beat.heard }

// Confirmed is when the newest heartbeat was sent that the peer has answered in this
// session, or in the last one: since then, at least, the peer was in it. Not ok if none
// was answered.
func (c *Core) Confirmed() (at Nanos, ok bool) { return c.beat.heardUs, c.beat.counted > 0 }

// SetFitness tells what keeps this appliance from serving, if anything does, and what
// it is configured to serve. The peer learns it at once, an older one with the next
// heartbeat and no more than whether there is a fault. Nothing of f may be changed
// afterwards.
func (c *Core) SetFitness(f wire.Fitness) {
	c.beat.ours, c.beat.told = f, true
	c.beat.saying = c.joined && c.version >= wire.FitnessVersion
}

// PeerFitness is what the peer has said of itself in this session; known is false
// until it has, and with an older peer.
func (c *Core) PeerFitness() (f wire.Fitness, known bool) {
	if !c.joined {
		return wire.Fitness{}, false
	}
	return c.beat.peers, c.beat.peerSaid
}

// FitnessOwed: there is a session in which the peer will say it, and has not yet.
func (c *Core) FitnessOwed() bool {
	return c.joined && c.version >= wire.FitnessVersion && !c.beat.peerSaid
}

// FitnessSaid reports, once each time, that the peer has said something of it.
func (c *Core) FitnessSaid() bool {
	news := c.beat.news
	c.beat.news = false
	return news
}

// PeerFit is whether the peer could serve, by what it last said; true while it has
// said nothing.
func (c *Core) PeerFit() bool { return !c.beat.peerUnfit && len(c.beat.peers.Faults) == 0 }

// fitness takes the peer's.
func (h *heartbeat) fitness(payload []byte) error {
	f, err := wire.DecodeFitness(payload)
	if err != nil {
		return err
	}
	h.peers, h.peerSaid, h.news = f, true, true
	return nil
}
