package sim

import (
	"container/heap"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"

	"lockstep/replication"
	"lockstep/replication/wire"
)

type nanos = replication.Nanos

const (
	micros nanos = 1000
	millis       = 1000 * micros
)

// config is one run.
type config struct {
	Seed uint64
	// Fault is the step before which the first fault strikes; negative: the seed decides.
	Fault int
	// Kind is the first fault's kind; negative: the seed decides.
	Kind FaultKind
	// Second, if positive, is the step of a further fault, of SecondKind.
	Second     int
	SecondKind FaultKind
	// Voters: three of them decide, over the same network, instead of an oracle.
	Voters bool
	// Alone: there is no witness, and no oracle either.
	Alone bool
	// Terminated: no connection is spliced.
	Terminated bool
	// Hasty: a standby keeps the shortest of its promises only.
	Hasty bool
}

// FaultKind is what goes wrong.
type FaultKind int

const (
	CrashActive  FaultKind = iota // the active vanishes, and comes back empty
	CrashStandby                  // the standby does
	CutLink                       // the sync link breaks at some byte; both live
	numFaults
)

// result is what became of a run.
type result struct {
	Err   error
	Hash  uint64 // of the trace
	Steps int
	Tail  []string // the trace's last lines
	Seen  Sometimes
	Pair  PairSometimes // with Voters only
	Lone  LoneSometimes // with Alone only
	// Snapshots are the steps, from and to, during which the standby of a session was
	// not in sync yet.
	Snapshots [][2]int
}

// world is the whole of a run.
type world struct {
	worldTime
	worldLog

	plan   plan
	faults []fault
	healed bool

	worldPair
	worldSnapshots

	*driven // nil in an oracle world
	*voting // the same
	*duo    // nil unless the pair has no witness

	patient  *rand.Rand // see bear; nil in most worlds
	hasty    bool
	splicing *rand.Rand // see chooseSpliced; nil in a third of the worlds
	agreeing *agreeing  // see chooseAgreeing; the same
}

// worldTime is what nothing but the seed decides: chance, and what comes when.
type worldTime struct {
	rng   *rand.Rand
	now   nanos
	queue events
	order uint64 // of the next event, so that equal times keep their order
	steps int
}

// worldLog is what a run leaves behind.
type worldLog struct {
	hash     interface{ Sum64() uint64 }
	write    func(string)
	tail     []string
	err      error
	seen     Sometimes
	pairSeen PairSometimes
}

// worldPair is the two appliances, and what goes through them.
type worldPair struct {
	arbiter  decider // nil if three voters decide
	nodes    [2]*node
	vip      *node // who answers for the virtual address
	session  *session
	flows    []*flow
	takeover int
}

// worldSnapshots are the steps between which each snapshot was made.
type worldSnapshots struct {
	snapshots [][2]int
	inside    bool // of the last of them
}

// plan is what the seed chose for the whole run.
type plan struct {
	hostDelay, syncDelay, syncJitter nanos
	loss, dup                        float64
	flip                             float64 // per chunk on the sync link
	limits, standbyLimits            replication.Limits
	unequal                          bool   // the two limits differ
	buffer                           uint64 // of the relay, per stream, bytes
	span                             nanos  // during which flows begin, pause and end
	version                          uint8  // of the protocol that both speak
	snapshotFault                    *fault // counted from the beginning of the first snapshot
}

type fault struct {
	step int
	kind FaultKind
}

// event is something that will happen.
type event struct {
	at    nanos
	order uint64
	do    func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || (e[i].at == e[j].at && e[i].order < e[j].order)
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	old[len(old)-1] = event{}
	*e = old[:len(old)-1]
	return x
}

const (
	maxSteps  = 200_000
	healAfter = 2500 // steps after which faults end
	tailLines = 80
)

// run plays one run.
func run(cfg config) result {
	h := fnv.New64a()
	w := &world{
		worldTime: worldTime{rng: rand.New(rand.NewPCG(cfg.Seed, 0))},
		worldLog:  worldLog{hash: h, write: func(s string) { _, _ = h.Write([]byte(s)) }},
	}
	w.choose(cfg)
	w.choosePatience(cfg)
	w.chooseSpliced(cfg)
	w.chooseAgreeing(cfg)
	switch {
	case cfg.Voters, cfg.Alone:
		w.startPair(cfg)
		w.runPair()
	default:
		w.start()
		w.run()
	}
	r := result{Err: w.err, Hash: w.hash.Sum64(), Steps: w.steps, Tail: w.tail, Seen: w.seen, Pair: w.pairSeen, Snapshots: w.snapshots}
	if w.duo != nil {
		r.Lone = w.loneSeen
	}
	return r
}

// choose draws the plan. Half of the choices are "ordinary", so that extremes
// combine with a working rest.
func (w *world) choose(cfg config) {
	pick := func(ds ...nanos) nanos { return ds[w.rng.IntN(len(ds))] }
	p := &w.plan
	p.hostDelay = pick(100*micros, 300*micros, 2*millis)
	p.syncDelay = pick(50*micros, 500*micros, 5*millis, 20*millis)
	p.syncJitter = pick(0, 50*micros, 5*millis)
	if w.chance(0.5) {
		p.loss, p.dup = 0.05, 0.02
	}
	if w.chance(0.1) {
		p.flip = 0.003
	}
	p.buffer = 4000
	p.span = 400 * millis
	p.limits = replication.Limits{
		ShipAfter: 20 * millis, Heartbeat: 10 * millis, FailureTimeout: 120 * millis,
		Linger: 3600 * 1000 * millis,
	}
	if w.chance(0.3) {
		p.limits.MaxBatchBytes = 1 // the smallest there is
	}
	if w.chance(0.3) {
		p.limits.MaxOutstanding = 1
	}
	p.standbyLimits = p.limits
	switch w.rng.IntN(8) {
	case 0:
		p.limits.MaxHeldPerStream = 1500
		p.standbyLimits = p.limits
	case 1:
		p.limits.MaxConns = 3
		p.standbyLimits = p.limits
	case 2:
		p.limits.MaxPending = 3000
	case 3:
		p.standbyLimits.MaxHeldPerStream = 1500
	case 4:
		p.standbyLimits.MaxConns = 3
	}
	p.version = wire.Version
	if w.chance(0.1) {
		p.version = wire.MinVersion + uint8(w.rng.IntN(wire.Version-wire.MinVersion))
	}
	p.unequal = p.limits != p.standbyLimits
	at := w.rng.IntN(1000)
	kind := FaultKind(w.rng.IntN(int(numFaults) + 2))
	if kind >= numFaults {
		kind = CrashActive
	}
	if cfg.Fault >= 0 {
		at = cfg.Fault
	}
	if cfg.Kind >= 0 {
		kind = cfg.Kind
	}
	w.faults = append(w.faults, fault{at, kind})
	if cfg.Second > 0 {
		w.faults = append(w.faults, fault{cfg.Second, cfg.SecondKind})
		return
	}
	if w.chance(0.3) {
		p.snapshotFault = &fault{w.rng.IntN(30), FaultKind(w.rng.IntN(int(numFaults)))}
	}
	for w.chance(0.5) {
		at += 200 + w.rng.IntN(600)
		w.faults = append(w.faults, fault{at, FaultKind(w.rng.IntN(int(numFaults)))})
	}
}

func (w *world) start() {
	w.arbiter = &oracle{}
	for i := range w.nodes {
		w.nodes[i] = &node{machine: &machine{w: w, name: string(rune('a' + i))}}
		w.nodes[i].boot()
	}
	w.nodes[0].becomeActive(w.arbiter.First(w.nodes[0]))
	w.connectSoon()
	for i := range 3 + w.rng.IntN(6) {
		w.flows = append(w.flows, newFlow(w, i))
	}
	w.startAgreeing()
}

// run executes events until all is done after the heal, or too much has happened.
func (w *world) run() {
	for w.err == nil {
		if len(w.faults) > 0 && w.steps >= w.faults[0].step && !w.healed {
			kind := w.faults[0].kind
			w.faults = w.faults[1:]
			w.strike(kind)
		}
		if w.steps >= healAfter && !w.healed {
			w.healed = true
			w.plan.loss, w.plan.dup, w.plan.flip = 0, 0, 0
			w.logf("healed")
		}
		if w.healed && w.converged() {
			return
		}
		if w.queue.Len() == 0 {
			w.failf("nothing left to happen")
			return
		}
		if w.steps++; w.steps > maxSteps {
			w.failf("no convergence: %s", w.unfinished())
			return
		}
		w.next()
		w.check()
		w.lookForSnapshot()
	}
}

// next lets happen what is due first.
func (w *world) next() {
	e := heap.Pop(&w.queue).(event)
	w.now = e.at
	e.do()
}

func (w *world) after(d nanos, do func()) {
	w.order++
	heap.Push(&w.queue, event{w.now + d, w.order, do})
}

func (w *world) chance(p float64) bool { return p > 0 && w.rng.Float64() < p }

// between draws a span from [lo, hi].
func (w *world) between(lo, hi nanos) nanos { return lo + nanos(w.rng.Int64N(int64(hi-lo)+1)) }

func (w *world) logf(format string, args ...any) {
	line := fmt.Sprintf("%d %d ", w.steps, w.now/micros) + fmt.Sprintf(format, args...)
	w.write(line)
	if len(w.tail) == tailLines {
		w.tail = append(w.tail[:0], w.tail[1:]...)
	}
	w.tail = append(w.tail, line)
}

func (w *world) failf(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("step %d, %d us: %s", w.steps, w.now/micros, fmt.Sprintf(format, args...))
		w.logf("FAIL %v", w.err)
	}
}

// active returns the node that serves, or nil.
func (w *world) active() *node {
	for _, n := range w.nodes {
		if n.alive && !n.silent() && n.core.Role() == replication.RoleActive {
			return n
		}
	}
	return nil
}

func (w *world) other(n *node) *node {
	if w.nodes[0] == n {
		return w.nodes[1]
	}
	return w.nodes[0]
}

// lookForSnapshot notes when one begins and ends, and brings the fault that belongs
// into the first.
func (w *world) lookForSnapshot() {
	inside := false
	if a := w.active(); a != nil {
		st := a.core.Stats()
		inside = st.PeerJoined && st.SnapshotTotal > 0 && !st.CanTakeOver
	}
	if inside && !w.inside {
		w.snapshots = append(w.snapshots, [2]int{w.steps, w.steps})
		if f := w.plan.snapshotFault; f != nil {
			w.plan.snapshotFault = nil
			f.step += w.steps
			w.faults = append(w.faults, *f)
			slices.SortStableFunc(w.faults, func(a, b fault) int { return a.step - b.step })
		}
	}
	if inside {
		w.snapshots[len(w.snapshots)-1][1] = w.steps
	}
	w.inside = inside
}

// strike makes a fault happen now.
func (w *world) strike(kind FaultKind) {
	a := w.active()
	switch kind {
	case CrashActive:
		if a != nil {
			if w.inside {
				w.seen.CrashInSnapshot++
			}
			a.crash()
		}
	case CrashStandby:
		if a != nil && w.other(a).alive {
			w.other(a).crash()
		}
	case CutLink:
		if w.session != nil {
			w.logf("cut")
			w.session.cut()
		}
	}
}

// connectSoon tries to bring the session up, again and again while it is down.
func (w *world) connectSoon() {
	w.after(w.between(5*millis, 40*millis), func() {
		if w.session != nil {
			return
		}
		a := w.active()
		if a == nil || !w.other(a).alive || a.core.Stats().PeerJoined || w.other(a).core.Stats().PeerJoined {
			w.connectSoon()
			return
		}
		w.session = newSession(w, a, w.other(a))
	})
}
