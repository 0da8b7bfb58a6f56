package bench

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"
)

// step is one measurement in a bed.
type step struct {
	ids  []string // figures it yields
	cost time.Duration
	own  bool // leaves the bed in a state that the next step must not inherit
	run  func(ctx context.Context, bed *bed) (taken, error)
}

// taken is what a step yields, by figure.
type taken struct {
	values  map[string]float64
	notes   map[string]string
	summary string // one line for who watches
	others  float64
}

// proxyIdle is how many idle connections a proxy is measured with: io.Copy keeps two sockets and
// two pipes for each, six descriptors, and 20,000 is a common hard limit.
const proxyIdle = 2000

// steps of a visit to a gateway.
func (b *bench) steps(round int, m mode, k kind) (all []step) {
	// Memory depends neither on the moment nor on the links: once is enough. The pair's is taken
	// together with its failovers.
	if round == 0 && m == b.modes[0] && k != paired {
		n := b.connections
		if k != alone {
			n = min(n, proxyIdle)
		}
		all = append(all, idleStep(n, k != forwarding))
	}
	if round == 0 && k != paired {
		all = append(all, b.quietStep(b.levels()[0])) // a control for the pair's, which come with its failovers
	}
	for _, l := range bulkLoads {
		all = append(all, b.bulkStep(l.name, l.title, l.load, k != forwarding))
	}
	for _, l := range requestLoads {
		all = append(all, b.requestStep(l.name, l.title, l.load, l.place, k != forwarding))
	}
	return all
}

func (b *bench) bulkStep(name, title string, l load, hasCPU bool) step {
	ids := []string{name, name + suffixMachine}
	if hasCPU {
		ids = append(ids, name+suffixCPU)
	}
	return step{ids: ids, cost: costLoad + b.duration, run: func(ctx context.Context, bed *bed) (t taken, err error) {
		w, err := bed.measure(ctx, l, b.pace.warmUp, b.duration)
		if err != nil {
			return t, err
		}
		t.values = map[string]float64{name: w.gbits(), name + suffixMachine: w.perGiB(w.machine)}
		if hasCPU {
			t.values[name+suffixCPU] = w.perGiB(w.cpu)
		}
		t.summary = fmt.Sprintf("%s: %.2f Gbit/s, %.1f s/GiB", title, w.gbits(), w.perGiB(w.machine))
		return t, nil
	}}
}

func (b *bench) requestStep(name, title string, l load, where placement, hasCPU bool) step {
	ids := []string{name, name + suffixP50, name + suffixP99, name + suffixMachine}
	if hasCPU {
		ids = append(ids, name+suffixCPU)
	}
	return step{ids: ids, cost: costLoad + b.duration, run: func(ctx context.Context, bed *bed) (t taken, err error) {
		if err := bed.place(where); err != nil {
			return t, err
		}
		defer func() { err = errors.Join(err, bed.place(anywhere)) }()
		w, err := bed.measure(ctx, l, b.pace.warmUp, b.duration)
		if err != nil {
			return t, err
		}
		if w.latency == nil {
			return t, fmt.Errorf("%w: not one answer", errLoad)
		}
		p50, p99 := float64(w.latency.P50)/1e3, float64(w.latency.P99)/1e3
		t.values = map[string]float64{name: w.rate(), name + suffixP50: p50, name + suffixP99: p99, name + suffixMachine: w.each(w.machine)}
		if hasCPU {
			t.values[name+suffixCPU] = w.each(w.cpu)
		}
		t.summary = fmt.Sprintf("%s: %.0f/s, p50 %.0f us, p99 %.0f us, %.1f us of CPU each", title, w.rate(), p50, p99, w.each(w.machine))
		return t, nil
	}}
}

func idleStep(n int, hasProcess bool) step {
	ids := []string{idleKernel}
	if hasProcess {
		ids = append(ids, idleActive)
	}
	return step{ids: ids, cost: costIdle, own: true, run: func(ctx context.Context, bed *bed) (t taken, err error) {
		grown, err := bed.idleMemory(ctx, n)
		if err != nil {
			return t, err
		}
		t.values = map[string]float64{idleKernel: grown.kernel}
		if hasProcess {
			t.values[idleActive] = grown.processes[0]
		}
		t.summary = fmt.Sprintf("%.2f KiB per idle connection, %.2f of the kernel's at all ends (%d)", grown.processes, grown.kernel, n)
		return t, nil
	}}
}

// quietStep is the failovers' load without a failover, for gateways that have none.
func (b *bench) quietStep(l level) step {
	return step{ids: []string{quietGap + l.suffix}, cost: costEpisode, run: func(ctx context.Context, bed *bed) (t taken, err error) {
		ep, err := bed.quiet(ctx, l.busy, b.pace)
		if err != nil {
			return t, err
		}
		t.values = map[string]float64{quietGap + l.suffix: ms(ep.gap)}
		t.summary = fmt.Sprintf("no kill, %d busy: longest gap %.1f ms %s, %.0f ms after the start", l.busy, ms(ep.gap), ep.way, ms(ep.at))
		return t, nil
	}}
}

func (b *bench) failStep(l level) step {
	gap, quiet, beyond := failGap+l.suffix, quietGap+l.suffix, failBeyond+l.suffix
	span, peer, own, lost := failSpan+l.suffix, failPeer+l.suffix, failOwn+l.suffix, failLost+l.suffix
	return step{ids: []string{gap, quiet, beyond, span, peer, own, lost}, cost: 2 * costEpisode, run: func(ctx context.Context, bed *bed) (t taken, err error) {
		ep, err := bed.killed(ctx, l.busy, b.pace)
		if err != nil {
			return t, err
		}
		took := float64(ep.takeover.DurationMicros) / 1e3
		t.values = map[string]float64{gap: ms(ep.gap), quiet: ms(ep.quiet), beyond: ms(ep.beyond()),
			span: ms(ep.span), peer: ms(ep.known), own: took, lost: float64(ep.lost)}
		t.notes = whyLost(lost, ep.lost, ep.error)
		t.summary = fmt.Sprintf("kill -9, %d busy: %s, over the kill %.1f ms; known after %.2f ms, rebuilt %.2f ms later (%d legs); %d lost",
			l.busy, ep.gaps(), ms(ep.span), ms(ep.known), took, ep.takeover.Legs, ep.lost)
		return t, nil
	}}
}

// whyLost puts the reason of a lost connection beside the count.
func whyLost(id string, lost int, why string) map[string]string {
	if lost == 0 {
		return map[string]string{}
	}
	return map[string]string{id: why}
}

// crowdStep is a failover with idle connections beside the busy ones; the memory of the idle ones
// is taken on the way.
func (b *bench) crowdStep() step {
	ids := []string{crowdGap, crowdQuiet, crowdBeyond, crowdSpan, crowdKnown, crowdOwn, crowdLost, crowdIdle, idleActive, idleStandby, idleKernel}
	return step{ids: ids, cost: costIdle + 2*costEpisode, run: func(ctx context.Context, bed *bed) (t taken, err error) {
		idle, grown, err := bed.openMeasured(ctx, b.connections)
		if err != nil {
			return t, err
		}
		defer idle.client.Finish()
		ep, err := bed.killed(ctx, b.busy, b.pace)
		if err != nil {
			return t, err
		}
		lost, why, err := idle.finish(ctx)
		if err != nil {
			return t, err
		}
		own := float64(ep.takeover.DurationMicros)
		t.values = map[string]float64{
			idleActive: grown.processes[0], idleStandby: grown.processes[1], idleKernel: grown.kernel, crowdGap: ms(ep.gap), crowdQuiet: ms(ep.quiet), crowdBeyond: ms(ep.beyond()),
			crowdSpan: ms(ep.span), crowdKnown: ms(ep.known), crowdOwn: own / 1e3, crowdLost: float64(ep.lost), crowdIdle: float64(lost),
		}
		t.notes = whyLost(crowdLost, ep.lost, ep.error)
		maps.Copy(t.notes, whyLost(crowdIdle, lost, why))
		t.summary = fmt.Sprintf("kill -9, %d idle and %d busy: %s, over the kill %.1f ms; known after %.2f ms, rebuilt %.1f ms later (%d legs); %d busy and %d idle lost; %.2f and %.2f KiB per idle connection",
			idle.n, b.busy, ep.gaps(), ms(ep.span), ms(ep.known), own/1e3, ep.takeover.Legs, ep.lost, lost, grown.processes[0], grown.processes[1])
		return t, nil
	}}
}

// restStep is a failover with idle connections alone: what rebuilding costs when nothing competes
// with it. (With busy ones beside, legs that nobody asks for wait for those that somebody does.)
func (b *bench) restStep() step {
	ids := []string{restOwn, restLeg, restLost, idleActive, idleStandby, idleKernel}
	return step{ids: ids, cost: costIdle, run: func(ctx context.Context, bed *bed) (t taken, err error) {
		idle, grown, err := bed.openMeasured(ctx, b.connections)
		if err != nil {
			return t, err
		}
		defer idle.client.Finish()
		killed, err := bed.killActive(ctx)
		if err != nil {
			return t, err
		}
		var ep episode
		if err := bed.survivor(ctx, killed, &ep); err != nil {
			return t, err
		}
		lost, why, err := idle.finish(ctx)
		if err != nil {
			return t, err
		}
		own := float64(ep.takeover.DurationMicros)
		leg := own / float64(ep.takeover.Legs)
		t.values = map[string]float64{
			restOwn: own / 1e3, restLeg: leg, restLost: float64(lost), idleActive: grown.processes[0], idleStandby: grown.processes[1], idleKernel: grown.kernel,
		}
		t.notes = whyLost(restLost, lost, why)
		t.summary = fmt.Sprintf("kill -9, %d idle: known after %.2f ms, rebuilt %.1f ms later (%d legs, %.1f us each); %d lost; %.2f and %.2f KiB per idle connection",
			idle.n, ms(ep.known), own/1e3, ep.takeover.Legs, leg, lost, grown.processes[0], grown.processes[1])
		return t, nil
	}}
}

// ms is a duration in milliseconds.
func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
