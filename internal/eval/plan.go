package eval

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"
)

// experiment asks one question.
type experiment struct {
	name, title string
	text        string // of the report: what is asked, how, and how to read the picture
	x, y        string // axes, with units
	kind        pictureKind
	logX        bool
	// runs of it, in their order, under options.
	runs func(o options) []run
}

// run is the smallest part that can be done alone.
type run struct {
	name  string
	cost  time.Duration // about
	world worldOptions  // a world is kept while the next run wants the same
	do    func(ctx context.Context, w *world) ([]Sample, error)
}

// experiments in the report's order.
func experiments() []experiment {
	return []experiment{clientsExperiment(), messagesExperiment(), timelineExperiment(), failoverExperiment(), historyExperiment(), latencyExperiment()}
}

// options of an evaluation.
type options struct {
	self, dir string // the program (empty: this one, see pair.Options); a temporary directory
	out       string
	quick     bool
	only      *regexp.Regexp
	// repeat, unless it is 0, is how often what is repeated is done.
	repeat int
	say    io.Writer
}

// pick is one of two, by --quick.
func pick[T any](o options, quick, whole T) T {
	if o.quick {
		return quick
	}
	return whole
}

// times is how often something is repeated.
func (o options) times(quick, whole int) int {
	if o.repeat > 0 {
		return o.repeat
	}
	return pick(o, quick, whole)
}

// todo is a run that has not been done, of an experiment.
type todo struct {
	experiment string
	run
}

// plan is what is left to do, and how much has been done before.
func plan(o options, setting string) (left []todo, done int, err error) {
	for _, e := range experiments() {
		if !o.only.MatchString(e.name) {
			continue
		}
		records, err := load(o.out, e.name)
		if err != nil {
			return nil, 0, err
		}
		_, before := samplesOf(records, setting)
		for _, r := range e.runs(o) {
			if _, ok := before[r.name]; ok {
				done++
				continue
			}
			left = append(left, todo{e.name, r})
		}
	}
	return left, done, nil
}

// carryOut does what is left. A run that fails is told and left for the next time; its world is built anew.
func carryOut(ctx context.Context, o options, setting string, left []todo) (failed int, err error) {
	var w *world
	defer func() {
		if w != nil {
			err = errors.Join(err, w.close())
		}
	}()
	var cost time.Duration
	for _, t := range left {
		cost += t.cost
	}
	begin, spent := time.Now(), time.Duration(0)
	for i, t := range left {
		if err := ctx.Err(); err != nil {
			return failed, err
		}
		t.world.self, t.world.dir = o.self, o.dir
		if w != nil && w.options != t.world {
			e := w.close()
			if w = nil; e != nil {
				return failed, e
			}
		}
		at, r := time.Now(), record{Run: t.name, Setting: setting}
		if w == nil {
			w, err = newWorld(ctx, t.world)
		}
		if err == nil {
			r.Samples, err = t.do(ctx, w)
		}
		r.Seconds = time.Since(at).Seconds()
		spent += t.cost
		state := "done"
		if err != nil {
			if ctx.Err() != nil {
				return failed, ctx.Err()
			}
			failed++
			state, r.Error, r.Samples = "FAILED: "+err.Error(), err.Error(), nil
			if w != nil {
				_ = w.close() // what has failed has been told
				w = nil
			}
		}
		if err = save(o.out, t.experiment, r); err != nil {
			return failed, err
		}
		// What was foreseen is scaled by how long it has taken so far.
		scale := float64(time.Since(begin)) / float64(spent)
		fmt.Fprintf(o.say, "%3d of %d  %-10s %-52s %5.1f s  %s; about %v left\n", i+1, len(left), t.experiment, t.name, r.Seconds, state,
			time.Duration(scale*float64(cost-spent)).Round(time.Second))
	}
	return failed, nil
}
