package bench

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
)

// The cut: the active's front and back cables are pulled at once under one running download,
// and the client says how long it was without a byte. Its process lives and the sync network is
// up. It is measured the same way for
// Lockstep and for what users would pick today.

// setting is how soon a pair notices that its active is gone.
type setting struct {
	name  string
	title string
	// advert is keepalived's advert_int: its backup takes over after a little more
	// than three of them (RFC 9568, section 6.1).
	advert time.Duration
	// Lockstep's; 0: no such row.
	heartbeat, failure time.Duration
}

// settings in the order of the rows. Hundredths of a second are the least that VRRP can
// express.
var settings = [...]setting{
	{"default", "defaults (keepalived: 1 s, Lockstep: 100 ms)", time.Second, 20 * time.Millisecond, 100 * time.Millisecond},
	{"mid", "keepalived: 100 ms", 100 * time.Millisecond, 0, 0},
	{"fast", "fastest (keepalived: 10 ms, Lockstep: 40 ms)", 10 * time.Millisecond, 10 * time.Millisecond, 40 * time.Millisecond},
}

// IDs of the cut's figures: a prefix and the setting's name.
const (
	cutGap  = "cut-gap-"
	cutLost = "cut-lost-"
)

func cutFigures() (all []figure) {
	for _, s := range settings {
		all = append(all, figure{cutGap + s.name, "cables of the active pulled, " + s.title + ": longest gap", "ms", 1})
	}
	for _, s := range settings {
		all = append(all, figure{cutLost + s.name, "cables of the active pulled, " + s.title + ": lost", "", 0})
	}
	return all
}

func (f figure) cut() bool { return strings.HasPrefix(f.ID, "cut-") }

// applies tells whether a pair has a row for the setting.
func (s setting) applies(k kind) bool { return k != paired || s.failure > 0 }

const (
	// The download: half a Gbit/s, so that something is always on its way and the
	// machine is not saturated.
	cutChunk = 64 << 10 // bytes
	cutPace  = time.Millisecond
	// cutPatience is longer than the longest pause a pair that keeps connections has
	// here (6.6 s): without a byte for so long the connection is lost.
	cutPatience = 10 * time.Second
	cutReport   = 50 * time.Millisecond // between two reports of progress
	costCut     = 2*costBed + 8*time.Second
)

// cuts measures the selected rows of the cut once for each pair.
func (b *bench) cuts(ctx context.Context, round int, m mode) {
	for _, s := range settings {
		for _, k := range b.gateways {
			ids := []string{cutGap + s.name, cutLost + s.name}
			if !(k == paired || k.rival()) || !s.applies(k) || !b.wanted(ids...) {
				continue
			}
			if ctx.Err() != nil {
				return
			}
			if !b.fits(costCut) {
				b.note(m, k, errOutOfTime, ids...)
				continue
			}
			if err := b.cut(ctx, round, m, k, s); err != nil && ctx.Err() == nil {
				b.note(m, k, err, ids...)
			}
		}
	}
}

// cut measures one pair with one setting, in a bed of its own.
func (b *bench) cut(ctx context.Context, round int, m mode, k kind, s setting) error {
	o := b.bedOptions
	o.setting = s
	at, err := newBed(ctx, k, m, o)
	if err != nil {
		return err
	}
	defer b.leave(at)
	t, err := b.measure(ctx, step{run: func(ctx context.Context, bed *bed) (t taken, err error) {
		ep, err := bed.cut(ctx, b.pace)
		if err != nil {
			return t, err
		}
		t.values = map[string]float64{cutLost + s.name: float64(ep.lost)}
		t.notes = whyLost(cutLost+s.name, ep.lost, ep.error)
		if ep.lost == 0 {
			t.values[cutGap+s.name] = ms(ep.gap)
		} else {
			t.notes[cutGap+s.name] = noteLost
		}
		t.summary = fmt.Sprintf("cables of the active pulled, %s: longest gap %.1f ms from %+.0f ms; %d lost", s.title, ms(ep.gap), ms(ep.at), ep.lost)
		return t, nil
	}}, at)
	if err != nil {
		return fmt.Errorf("%w%s", err, at.logs())
	}
	b.take(m, k, round, round, t)
	return nil
}

// cut runs one download and pulls the active's cables in the middle.
func (b *bed) cut(ctx context.Context, p pace) (ep episode, err error) {
	lasting := p.before + p.after
	client, err := b.checkedClient(traffic.ClientArgs{
		Requests: []traffic.Batch{{Count: 1, Request: traffic.Request{Mode: traffic.Stream, Down: traffic.Flow{
			Size: cutChunk * int64(lasting/cutPace), Chunk: cutChunk, Pace: cutPace,
		}}}},
		Patience: cutPatience, Results: true, Every: cutReport,
	})
	if err != nil {
		return ep, err
	}
	defer client.Finish()
	if err := awaitBytes(ctx, client); err != nil {
		return ep, fmt.Errorf("begin the download: %w", err)
	}
	if err := lab.Pause(ctx, p.before); err != nil {
		return ep, err
	}
	// What has flapped already would make a fine figure of a wrong thing.
	if err := b.gateway.check(ctx); err != nil {
		return ep, err
	}
	at := time.Now()
	if err := b.unplug(b.activeHost()); err != nil {
		return ep, err
	}
	e, err := awaitSummary(ctx, client, readyTimeout+cutPatience)
	if err != nil {
		return ep, err
	}
	ep.gap, ep.at, ep.lost = e.Summary.Gap.Longest, e.Summary.Gap.At.Sub(at), e.Summary.Lost
	if len(e.Summary.Errors) > 0 {
		ep.error = e.Summary.Errors[0]
	}
	return ep, nil
}

// awaitBytes waits for the first bytes of a client: that its connection stands says nothing of the
// one behind a proxy, which may still wait for a lost SYN.
func awaitBytes(ctx context.Context, client *lab.RoleProc) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		var e traffic.ClientEvent
		if err := client.Next(ctx, &e); err != nil {
			return err
		}
		if e.Summary != nil {
			return fmt.Errorf("%w: it ended before the cut: %v", errLoad, e.Summary.Errors)
		}
		if e.Received > 0 {
			return nil
		}
	}
}

// activeHost is where the active runs.
func (b *bed) activeHost() *lab.Host {
	if g, ok := b.gateway.(*applianceGateway); ok {
		return g.nodes[0].Host
	}
	return b.A
}

// unplug pulls the front and the back cable of a host at once.
func (b *bed) unplug(h *lab.Host) error {
	ifnames := []string{lab.FrontIf, lab.BackIf}
	errs := make([]error, len(ifnames))
	var wg sync.WaitGroup
	for i, ifname := range ifnames {
		wg.Go(func() { errs[i] = h.Port(ifname).SetLink(false) })
	}
	wg.Wait()
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		return errs[i]
	}
	return nil
}

// cutTargets compare gaps with keepalived and conntrackd at their fastest.
func cutTargets() (all []target) {
	fastest := cutGap + settings[len(settings)-1].name
	for _, s := range settings {
		if !s.applies(paired) {
			continue
		}
		all = append(all, target{
			title: "cables pulled, gap of the pair (" + s.name + ") : keepalived+conntrackd (fast)", digits: 2, limit: 0.5,
			value: func(samples *samples, m mode) (float64, bool) {
				return samples.compare(key{m, paired, cutGap + s.name}, key{m, keepConntrackd, fastest}, ratio)
			},
		}, worstTarget("cables pulled, "+s.name+": lost, worst run", cutLost+s.name))
	}
	return all
}
