package sim

import "lockstep/replication/roles"

// duo is what a world without a witness has more than one with.
type duo struct {
	// single: a fault strikes only when the pair is whole again after the one before.
	// Then everything is promised.
	single bool
	// split: the two may be cut off from each other on all networks, so both may go on.
	split     bool
	pausing   bool // a machine that stands still loses what is sent to it on the networks
	lossLAN   float64
	lanCut    int    // how many faults block the networks between the two now
	unplugged [2]int // how many faults have pulled that one's cables
	loneSeen  LoneSometimes
}

// LoneSometimes counts what must have happened in worlds without a witness.
type LoneSometimes struct {
	Single, Rough, Split                     int // worlds
	TookOver, TookOverDead, WentOn, Newcomer int
	FromLiving                               int
	StartedEmpty, StartedOverHolder          int
	JustBegun                                int // a holder passed over that held nothing when it told of itself
	StepDown, GaveUp, Proved                 int
	Claim, Unplugged, LANCut, LongFreeze     int
	WokeMute, TwoSpoke, Astray, Lost         int
}

// chooseAlone draws what only a world without a witness has.
func (w *world) chooseAlone(cfg config) {
	w.duo = &duo{}
	w.plan.snapshotFault = nil
	w.startEmpty = w.between(1500*millis, 4000*millis)
	w.lossLAN = w.plan.loss
	w.pausing = w.chance(0.5)
	w.chaos = w.between(2000*millis, 6000*millis)
	if cfg.Fault >= 0 {
		w.chaos = 2000 * millis
	}
	switch {
	case cfg.Fault >= 0 || w.chance(0.5):
		w.single = true
		w.loneSeen.Single++
	case w.chance(0.3):
		w.split = true
		w.loneSeen.Split++
	default:
		w.loneSeen.Rough++
	}
}

func (w *world) aloneConfig(n *node) roles.AloneConfig {
	return roles.AloneConfig{
		Smaller: n.id == 0, Heartbeat: w.heartbeat, FailureTimeout: w.failure,
		StartEmptyAfter: w.startEmpty, Settle: 300 * millis,
	}
}

// overLAN sends between the two on the front or the back network.
func (w *world) overLAN(from, to *node, deliver func()) {
	lost := w.lanCut > 0 || w.unplugged[0]+w.unplugged[1] > 0 || w.chance(w.lossLAN) || !to.alive || to.frozen && w.pausing
	if lost {
		return
	}
	life := to.life
	w.after(w.between(50*micros, 2*millis), func() {
		if to.frozen && w.pausing {
			return
		}
		to.run(life, deliver)
	})
}
