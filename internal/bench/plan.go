package bench

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"
)

// options of a bench, checked.
type options struct {
	rounds      int           // over all gateways
	runs        int           // of the failover without idle connections; the others come once a round
	duration    time.Duration // of one measurement
	connections int           // idle ones
	busy        int           // busy ones in failovers
	pace        pace
	only        *regexp.Regexp
	gateways    []kind
	modes       []mode
	limit       time.Duration // of everything; 0: none
	json        string        // file, "-" for standard output, empty: none
	bedOptions
}

// pace is what the phases of measurements take besides options.duration; tests make it shorter.
type pace struct {
	// warmUp is how long a load runs before the first mark: congestion windows open, buffers grow.
	warmUp time.Duration
	// before and after are how long busy flows run on either side of a kill.
	before, after time.Duration
	// ahead is by how many bytes one replica is ahead of the other where that costs memory.
	ahead int64
}

var (
	defaultPace = pace{warmUp: 300 * time.Millisecond, before: 800 * time.Millisecond, after: 1200 * time.Millisecond, ahead: 1 << 30}
	quickPace   = pace{warmUp: 200 * time.Millisecond, before: 500 * time.Millisecond, after: 700 * time.Millisecond, ahead: 128 << 20}
)

// Rough costs of the parts besides what options say, to know what still fits into the limit.
const (
	costBed     = 4 * time.Second
	costLoad    = 500 * time.Millisecond
	costIdle    = 12 * time.Second
	costEpisode = 6 * time.Second
)

// notes that are no failures.
const (
	noteOutOfTime = "skipped: the time limit"
	noteMissing   = "not installed"
	noteLost      = "lost"
	noteOneCPU    = "takes two CPUs"
)

// level is how much traffic there is when something fails: what was asked for, and so little that
// gaps are the failure's and not a saturated machine's.
type level struct {
	busy   int
	suffix string // of the figures
}

const fewBusy = 9

func levels(busy int) []level {
	if busy <= fewBusy {
		return []level{{busy, ""}}
	}
	return []level{{busy, ""}, {fewBusy, "-few"}}
}

func (b *bench) levels() []level { return levels(b.busy) }

// bench is a bench under way. One goroutine does everything: nothing may run beside a measurement.
type bench struct {
	options
	samples *samples
	begin   time.Time
	say     func(format string, args ...any) // progress
	failed  int                              // measurements
	others  []float64                        // share of the CPUs that others used, of each measurement
}

// run measures everything that was asked for. It returns an error only if it could not go on; what
// could not be measured is noted in the samples.
func (b *bench) run(ctx context.Context) error {
	if b.crowd > 0 {
		return b.scaleRun(ctx)
	}
	for round := range b.rounds {
		for _, m := range b.modes {
			for _, k := range b.gateways {
				if k.rival() {
					continue
				}
				b.visit(ctx, round, m, k)
				if err := ctx.Err(); err != nil {
					return err
				}
			}
			b.cuts(ctx, round, m)
			if err := ctx.Err(); err != nil {
				return err
			}
			if slices.Contains(b.gateways, paired) {
				b.failovers(ctx, round, m)
				b.keptRuns(ctx, round, m)
				if err := ctx.Err(); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// wanted tells whether any of the figures is selected.
func (b *bench) wanted(ids ...string) bool {
	return slices.ContainsFunc(ids, func(id string) bool {
		for _, f := range b.figures() {
			if f.ID == id {
				return b.only.MatchString(f.ID) || b.only.MatchString(f.Title)
			}
		}
		return false
	})
}

func (b *bench) figures() []figure {
	if b.crowd > 0 {
		return scaleFigures(b.crowd)
	}
	return slices.Concat(throughputFigures(), failoverFigures(b.busy, b.connections), keptFigures(b.pace.ahead), cutFigures())
}

// fits tells whether something that takes so long can still be done.
func (b *bench) fits(cost time.Duration) bool {
	return b.limit == 0 || time.Since(b.begin)+cost < b.limit
}

// note why the figures of one gateway have no value.
func (b *bench) note(m mode, k kind, err error, ids ...string) {
	why := err.Error()
	switch {
	case errors.Is(err, errNotInstalled):
		why = noteMissing
	case errors.Is(err, errOutOfTime):
		why = noteOutOfTime
	case errors.Is(err, errOneCPU):
		why = noteOneCPU
	default:
		b.failed++
	}
	for _, id := range ids {
		b.samples.note(key{m, k, id}, why)
	}
	b.say("%s, offload %s: %v", k.title(), m, err)
}

var errOutOfTime = errors.New(noteOutOfTime)

// visit takes all throughput figures of one gateway once.
func (b *bench) visit(ctx context.Context, round int, m mode, k kind) {
	var steps []step
	for _, s := range b.steps(round, m, k) {
		if b.wanted(s.ids...) {
			steps = append(steps, s)
		}
	}
	var at *bed
	defer func() { b.leave(at) }()
	for i, s := range steps {
		if ctx.Err() != nil {
			return
		}
		cost := s.cost
		if at == nil {
			cost += costBed
		}
		if !b.fits(cost) {
			b.note(m, k, errOutOfTime, s.ids...)
			continue
		}
		if at == nil {
			var err error
			if at, err = newBed(ctx, k, m, b.bedOptions); err != nil {
				for _, rest := range steps[i+1:] {
					s.ids = append(s.ids, rest.ids...)
				}
				b.note(m, k, err, s.ids...)
				return
			}
		}
		t, err := b.measure(ctx, s, at)
		if err == nil {
			err = at.gateway.check(ctx)
		}
		if err == nil {
			b.take(m, k, round, round, t)
			if !s.own {
				continue
			}
		} else {
			if ctx.Err() != nil {
				return
			}
			b.note(m, k, fmt.Errorf("%w%s", err, at.logs()), s.ids...)
		}
		// What went wrong may go on: the next measurement gets a lab of its own.
		b.leave(at)
		at = nil
	}
}

// take puts down what a step yielded.
func (b *bench) take(m mode, k kind, round, index int, t taken) {
	for id, v := range t.values {
		b.samples.add(key{m, k, id}, sample{index, v, t.others})
	}
	for id, why := range t.notes {
		b.samples.note(key{m, k, id}, why)
	}
	b.others = append(b.others, t.others)
	b.say("round %d/%d, offload %s, %s: %s (others: %.0f %% of the CPUs)", round+1, b.rounds, m, k.title(), t.summary, 100*t.others)
}

// run a step, and note how much CPU others used meanwhile.
func (b *bench) measure(ctx context.Context, s step, at *bed) (t taken, err error) {
	begin, err := takeSnapshot()
	if err != nil {
		return t, err
	}
	if t, err = s.run(ctx, at); err != nil {
		return t, err
	}
	t.others, err = begin.othersSince()
	return t, err
}

func (b *bench) leave(at *bed) {
	if at == nil {
		return
	}
	if err := at.close(); err != nil {
		b.say("close the lab: %v", err)
	}
}

// failovers does this round's share of the runs, each with a new pair of processes.
func (b *bench) failovers(ctx context.Context, round int, m mode) {
	first, end := b.share(round)
	var steps []indexed
	add := func(s step, index int) {
		if b.wanted(s.ids...) {
			steps = append(steps, indexed{s, index})
		}
	}
	if b.runs > 0 {
		add(b.crowdStep(), round)
		add(b.restStep(), round)
		add(b.rejoinStep(), round)
		add(b.soloStep(), round)
	}
	for run := first; run < end; run++ {
		for _, l := range b.levels() {
			add(b.failStep(l), run)
			add(b.switchStep(l), run)
		}
	}
	b.episodes(ctx, round, m, b.bedOptions, steps)
	steps = nil
	for run := first; run < end; run++ {
		add(b.frozenStep(), run)
	}
	o := b.bedOptions
	o.setting = frozen
	b.episodes(ctx, round, m, o, steps)
}

// indexed is a step with the run, or round, that its samples belong to.
type indexed struct {
	step
	index int
}

// share of the runs that belongs to a round: from first up to, not including, end.
func (b *bench) share(round int) (first, end int) {
	return round * b.runs / b.rounds, (round + 1) * b.runs / b.rounds
}

// episodes does steps one after the other in a pair's bed, each with new processes of both
// appliances.
func (b *bench) episodes(ctx context.Context, round int, m mode, o bedOptions, steps []indexed) {
	var at *bed
	defer func() { b.leave(at) }()
	for _, s := range steps {
		if ctx.Err() != nil {
			return
		}
		if !b.fits(s.cost) {
			b.note(m, paired, errOutOfTime, s.ids...)
			continue
		}
		err := b.freshPair(ctx, &at, m, o)
		if err == nil {
			var t taken
			if t, err = b.measure(ctx, s.step, at); err == nil {
				b.take(m, paired, round, s.index, t)
				continue
			}
		}
		if ctx.Err() != nil {
			return
		}
		if at != nil {
			err = fmt.Errorf("%w%s", err, at.logs())
		}
		b.note(m, paired, err, s.ids...)
		b.leave(at)
		at = nil
	}
}

// freshPair makes a bed, or restarts both appliances of the one there is.
func (b *bench) freshPair(ctx context.Context, at **bed, m mode, o bedOptions) (err error) {
	if *at == nil {
		*at, err = newBed(ctx, paired, m, o)
		return err
	}
	if err := (*at).drained(ctx); err != nil {
		return err
	}
	return (*at).gateway.(*applianceGateway).restart(ctx)
}
