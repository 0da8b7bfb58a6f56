package sim

import (
	"math/rand/v2"

	"lockstep/replication/roles"
)

// In a quarter of the worlds an appliance bears silence for longer than failure_timeout, for
// any time that roles.Patience may come to, and another one each time. What decides it is
// drawn apart, so that the other worlds stay what they were.
func (w *world) choosePatience(cfg config) {
	if cfg.Seed%4 == 3 && (cfg.Voters || cfg.Alone) {
		w.hasty = cfg.Hasty
		w.patient = rand.New(rand.NewPCG(cfg.Seed, 1))
	}
}

// bear draws how long n bears silence now.
func (n *node) bear() {
	w := n.w
	if w.patient == nil {
		return
	}
	longest := roles.LongestPatience(w.failure)
	var alone *roles.AloneConfig
	if w.duo != nil {
		c := w.aloneConfig(n)
		alone, longest = &c, c.LongestPatience()
	}
	d := w.failure + nanos(w.patient.Int64N(int64(longest-w.failure)+1))
	n.sh.SetPatience(roles.Patience{FailureTimeout: d, Longest: d}, alone, 0)
	if n.voter != nil {
		n.arb.SetDelay(d - w.failure)
	}
}
