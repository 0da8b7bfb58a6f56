package arbiter

import (
	"container/heap"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// The simulation: three voters in a world made of one seed. Time is the true time;
// every node has its own clock, off by up to one per cent. See simnode_test.go for
// a node, simcheck_test.go for what is checked.

const (
	chaosFor   = 12000 * millisecond // then everything heals
	healWithin = 3500 * millisecond  // within which a leader and an active must exist
	calmFor    = 400 * millisecond   // and stay
)

var (
	oneSeed = flag.Int64("seed", -1, "run this seed only, and print the end of its trace")
	from    = flag.Int("first", 0, "the first of the seeds, so that many can be played in pieces")
	seeds   = flag.Int("seeds", 0, "number of seeds (also SIM_SEEDS; default 300)")
)

const (
	defaultSeeds = 300
	tailLines    = 150
)

// sometimes counts what must have happened over all seeds.
type sometimes struct {
	ClaimWhole, ClaimEmpty, ClaimImpatient int
	ZombieWoken                            int // its lease over, somebody else the active
	VoteRefused                            int // while somebody spoke
	WitnessRestartInLease                  int
	Yield, YieldDone, YieldFailed          int
	HandBack                               int // to one that may hold connections
	Forced, Solo, Removed, Added           int
	DiskLost, DiskLostRejoined             int
	Snapshot, Duplicate, CrashAfterPersist int
	OldIncarnation, Rewound, FirstAlone    int
	WitnessLed                             int // to pass on its log
}

func (s *sometimes) add(o *sometimes) {
	a, b := reflect.ValueOf(s).Elem(), reflect.ValueOf(o).Elem()
	for i := range a.NumField() {
		a.Field(i).SetInt(a.Field(i).Int() + b.Field(i).Int())
	}
}

type event struct {
	at    Nanos
	order int
	do    func()
}

type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	*q = old[:len(old)-1]
	return e
}

// world is the network and all that happens.
type world struct {
	rng   *rand.Rand
	now   Nanos
	order int
	queue queue
	nodes [3]*simNode
	boots uint64

	cut                [3][3]bool
	loss, dup          float64
	slow               float64 // part of the messages that are late
	late               Nanos   // up to how late
	healed             bool
	check              checker
	seen               sometimes
	trace              interface{ Write([]byte) (int, error) }
	sum                func() uint64
	lines              []string
	err                error
	heartbeat, failure Nanos
	patience           Nanos
	limit              uint64 // of entries in the log
}

func newWorld(seed uint64) *world {
	h := fnv.New64a()
	w := &world{rng: rand.New(rand.NewPCG(seed, 3)), trace: h, sum: h.Sum64}
	w.heartbeat, w.failure = 20*millisecond, 100*millisecond
	w.patience = w.between(300*millisecond, 800*millisecond)
	w.loss, w.dup, w.slow = w.rng.Float64()*0.1, w.rng.Float64()*0.05, w.rng.Float64()*0.1
	w.late = w.between(millisecond, 400*millisecond)
	w.limit = 12 + w.rng.Uint64N(53)
	w.check.init(w)
	for i, name := range []string{"a", "b", "w"} {
		n := &simNode{w: w, id: i, name: name, offset: w.between(0, 1e9)}
		switch w.rng.IntN(3) {
		case 0:
			n.ppm = -10000
		case 1:
			n.ppm = 10000
		default:
			n.ppm = Nanos(w.rng.IntN(20001)) - 10000
		}
		w.nodes[i] = n
	}
	// At the very first start one may come much later.
	late := w.rng.IntN(6)
	for i, n := range w.nodes {
		at := w.between(0, 50*millisecond)
		if i == late {
			at += 1500 * millisecond
			w.seen.FirstAlone++
		}
		n.off(at)
	}
	w.after(w.between(0, 300*millisecond), w.fault)
	return w
}

func (w *world) after(d Nanos, do func()) {
	w.order++
	heap.Push(&w.queue, event{w.now + d, w.order, do})
}

func (w *world) chance(p float64) bool { return w.rng.Float64() < p }

func (w *world) between(lo, hi Nanos) Nanos { return lo + Nanos(w.rng.Int64N(int64(hi-lo)+1)) }

func (w *world) logf(format string, args ...any) {
	line := fmt.Sprintf("%9.3f ", float64(w.now)/1e6) + fmt.Sprintf(format, args...)
	_, _ = w.trace.Write([]byte(line))
	if len(w.lines) == tailLines {
		w.lines = append(w.lines[:0], w.lines[1:]...)
	}
	w.lines = append(w.lines, line)
}

func (w *world) failf(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf(format, args...)
		w.logf("FAIL %v", w.err)
	}
}

func (w *world) run() {
	var good Nanos // since when all is well after the heal; 0: it is not
	for w.err == nil && w.queue.Len() > 0 {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		if w.now >= chaosFor && !w.healed {
			w.heal()
		}
		e.do()
		w.check.all()
		if w.order > 1_000_000 {
			w.failf("a storm of messages")
		}
		if !w.healed {
			continue
		}
		switch {
		case !w.check.converged():
			good = 0
		case good == 0:
			good = w.now
		case w.now >= good+calmFor:
			w.logf("converged")
			return
		}
		if w.now > chaosFor+healWithin {
			w.failf("no convergence: %s", w.check.unfinished())
		}
	}
}

// heal ends all faults; what is down comes back by itself.
func (w *world) heal() {
	w.logf("heal")
	w.healed = true
	w.cut = [3][3]bool{}
	w.loss, w.dup, w.slow = 0, 0, 0
	for _, n := range w.nodes {
		n.wake()
	}
}

// fault does something bad, or just something, and comes again.
func (w *world) fault() {
	if w.healed {
		return
	}
	n := w.nodes[w.rng.IntN(3)]
	m := w.nodes[w.rng.IntN(3)]
	d := w.between(30*millisecond, 700*millisecond)
	switch w.rng.IntN(18) {
	case 0, 1, 2:
		n.freeze(d)
	case 3, 4, 5:
		n.crash()
	case 6:
		w.cutFor(d, n.id, m.id)
	case 7:
		w.cutFor(d, n.id, m.id)
		w.cutFor(d, m.id, n.id)
	case 8: // n is alone
		for i := range w.nodes {
			w.cutFor(d, n.id, i)
			w.cutFor(d, i, n.id)
		}
	case 9, 10:
		w.nodes[w.rng.IntN(2)].yield()
	case 11:
		w.nodes[w.rng.IntN(2)].remove()
	case 12:
		w.loss = w.rng.Float64() * 0.3
	case 13:
		w.loss, w.slow = 0, 0
	case 14:
		w.slow = w.rng.Float64() * 0.3
	case 15:
		w.nodes[w.rng.IntN(2)].unable()
	case 16, 17: // only the witness hears both, and it restarts within the lease
		d += 200 * millisecond
		w.cutFor(d, 0, 1)
		w.cutFor(d, 1, 0)
		w.after(w.between(100*millisecond, d), func() {
			w.nodes[2].crash()
			w.nodes[2].off(w.between(millisecond, 30*millisecond))
		})
	}
	w.after(w.between(0, 500*millisecond), w.fault)
}

func (w *world) cutFor(d Nanos, from, to int) {
	w.logf("cut %d->%d", from, to)
	w.cut[from][to] = true
	w.after(d, func() { w.cut[from][to] = false })
}

// send carries a message: perhaps not, perhaps twice, perhaps late.
func (w *world) send(from *simNode, to int, data []byte) {
	_, _ = w.trace.Write(data)
	times := 1
	if w.chance(w.dup) {
		times = 2
		w.seen.Duplicate++
	}
	for range times {
		if w.cut[from.id][to] || w.chance(w.loss) {
			continue
		}
		delay := w.between(50_000, millisecond)
		if w.chance(w.slow) {
			delay += w.between(0, w.late)
		}
		member := from.self
		w.after(delay, func() { w.nodes[to].arrive(member, data) })
	}
}

func play(seed uint64) *world {
	w := newWorld(seed)
	w.run()
	return w
}

func TestSeeds(t *testing.T) {
	n, first := defaultSeeds, *from
	if s := os.Getenv("SIM_SEEDS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatalf("SIM_SEEDS=%q: %v", s, err)
		}
	}
	if *seeds > 0 {
		n = *seeds
	}
	if *oneSeed >= 0 {
		first, n = int(*oneSeed), 1
	}
	var total sometimes
	for seed := first; seed < first+n; seed++ {
		w := play(uint64(seed))
		if w.err != nil {
			t.Fatalf("seed %d: %v\nlast lines:\n%s\nrepeat: go test ./replication/arbiter -run Seeds -seed=%d",
				seed, w.err, strings.Join(w.lines, "\n"), seed)
		}
		if again := play(uint64(seed)); again.sum() != w.sum() {
			t.Fatalf("seed %d is not reproducible\nrepeat: go test ./replication/arbiter -run Seeds -seed=%d", seed, seed)
		}
		total.add(&w.seen)
		if *oneSeed >= 0 {
			t.Log(strings.Join(w.lines, "\n"))
		}
	}
	t.Logf("%d seeds: %+v", n, total)
	if n < defaultSeeds {
		return // too few to demand everything
	}
	v := reflect.ValueOf(total)
	for i := range v.NumField() {
		if v.Field(i).Int() == 0 {
			t.Errorf("%s never happened in %d seeds: the simulation does not test it", v.Type().Field(i).Name, n)
		}
	}
}
