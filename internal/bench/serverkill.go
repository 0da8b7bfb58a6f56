package bench

import (
	"context"
	"fmt"
	"time"

	"lockstep/appliance/control"
	"lockstep/internal/lab/traffic"
)

// A killed server: a download through a pair, whose server dies in the middle. The download is paced,
// so that the machine is not saturated and a gap is that of the failure; with log it is as fast as it
// can be up to where the server is killed, because the spare has to send all that again.

// serverKill is one kind of it: a service of keptServices.
type serverKill struct {
	service string
	title   string
	none    bool // nothing is killed: what scheduling alone costs
}

var (
	serverKillNone = serverKill{"primary", "server not killed, hot", true}
	serverKills    = [...]serverKill{
		{service: "primary", title: "server killed, hot, release: primary"},
		{service: "first", title: "server killed, hot, release: first"},
		{service: "log", title: "server killed, log, a spare running, 10 MiB into a response"},
	}
)

func (k serverKill) id() string {
	if k.none {
		return "server-kill-none"
	}
	return "server-kill-" + k.service
}

// What is added to the ID of a serverKill.
const (
	suffixGap   = "-gap"        // over the kill
	suffixAny   = "-any"        // anywhere in the download
	suffixLost  = "-lost"       // connections
	suffixKnown = "-known"      // log: from the kill to knowing
	suffixAgain = "-regenerate" // log: from knowing until the spare has sent all again
	suffixRest  = "-rest"       // log: what remains of the gap
	suffixSent  = "-sent"       // log: what the client had got when the server was killed
)

const (
	killChunk = 16 << 10         // bytes of a paced download
	killPace  = time.Millisecond // from one to the next: 0.13 Gbit/s
	killAfter = 10 << 20         // bytes, with log
	// killSpan is how long after a kill a gap may begin that is put down to it: what was on its way
	// arrives first.
	killSpan = 100 * time.Millisecond
)

func serverKillFigures() (all []figure) {
	all = append(all, figure{serverKillNone.id() + suffixGap, serverKillNone.title + ": longest gap", "ms", 1})
	for _, k := range serverKills {
		all = append(all,
			figure{k.id() + suffixGap, k.title + ": longest gap over the kill", "ms", 1},
			figure{k.id() + suffixAny, k.title + ": longest gap anywhere", "ms", 1})
		if k.service == "log" {
			all = append(all,
				figure{k.id() + suffixSent, k.title + ": had been sent", "MiB", 2},
				figure{k.id() + suffixKnown, k.title + ": from the kill to knowing", "ms", 2},
				figure{k.id() + suffixAgain, k.title + ": from knowing until the spare has sent all again", "ms", 1},
				figure{k.id() + suffixRest, k.title + ": what remains of the gap", "ms", 1})
		}
		all = append(all, figure{k.id() + suffixLost, k.title + ": lost, worst run", "", 0})
	}
	return all
}

func serverKillTargets() (all []target) {
	for i, limit := range []float64{20, 5} {
		k := serverKills[i]
		all = append(all, medianTarget(k.title+": longest gap over the kill, median run", k.id()+suffixGap, "ms", 1, limit))
	}
	// The time to regenerate is the server's; what comes on top of it and of detection is ours.
	log := serverKills[len(serverKills)-1]
	all = append(all, medianTarget(log.title+": gap beyond detection and regeneration, median run", log.id()+suffixRest, "ms", 1, 20))
	for _, k := range serverKills {
		all = append(all, worstTarget(k.title+": lost, worst run", k.id()+suffixLost))
	}
	return all
}

func (b *bench) serverKillStep(k serverKill) step {
	var ids []string
	for _, f := range serverKillFigures() {
		if len(f.ID) > len(k.id()) && f.ID[:len(k.id())+1] == k.id()+"-" {
			ids = append(ids, f.ID)
		}
	}
	return step{ids: ids, cost: costEpisode, run: func(ctx context.Context, bed *bed) (t taken, err error) {
		if k.none {
			return bed.serverNotKilled(ctx, b.pace, k)
		}
		t, err = bed.serverKilled(ctx, b.pace, k)
		if e := bed.revive(ctx); err == nil {
			err = e
		}
		return t, err
	}}
}

// killLoad is the download of a serverKill, lasting as long as a pace says.
func killLoad(p pace, k serverKill) traffic.Request {
	flow := traffic.Flow{Chunk: killChunk, Pace: killPace}
	if k.service == "log" {
		flow.PaceAfter = killAfter
		flow.Size = killAfter + killChunk*int64(p.after/killPace)
	} else {
		flow.Size = killChunk * int64((p.before+p.after)/killPace)
	}
	return traffic.Request{Mode: traffic.Stream, Down: flow, Repeatable: true}
}

// killDownload runs the download, with an event after so many bytes.
func (b *bed) killDownload(ctx context.Context, p pace, k serverKill, happens func(e traffic.ClientEvent) error) (traffic.Result, error) {
	req := killLoad(p, k)
	client, err := b.checkedClient(traffic.ClientArgs{
		Addr: b.target(checkedPort + keptOffset(k.service)), Requests: []traffic.Batch{{Count: 1, Request: req}},
		Patience: patience, Results: true, Every: killPace,
	})
	if err != nil {
		return traffic.Result{}, err
	}
	defer client.Finish()
	due := int64(killAfter)
	if k.service != "log" {
		due = killChunk * int64(p.before/killPace)
	}
	limited, cancel := context.WithTimeout(ctx, readyTimeout+patience)
	defer cancel()
	happened := false
	for {
		var e traffic.ClientEvent
		if err := client.Next(limited, &e); err != nil {
			return traffic.Result{}, err
		}
		if e.Summary != nil {
			if !happened || len(e.Results) != 1 {
				return traffic.Result{}, fmt.Errorf("%w: it ended before its time, after %d bytes: %v", errLoad, e.Received, e.Summary.Errors)
			}
			return e.Results[0], nil
		}
		if !happened && e.Received >= due {
			happened = true
			if err := happens(e); err != nil {
				return traffic.Result{}, err
			}
		}
	}
}

func (b *bed) serverNotKilled(ctx context.Context, p pace, k serverKill) (t taken, err error) {
	r, err := b.killDownload(ctx, p, k, func(traffic.ClientEvent) error { return nil })
	if err == nil && !r.Intact {
		err = fmt.Errorf("%w: lost without a kill: %s", errLoad, r.Error)
	}
	if err != nil {
		return t, err
	}
	t.values = map[string]float64{k.id() + suffixGap: ms(r.Down.Longest)}
	t.summary = fmt.Sprintf("%s: longest gap %.1f ms", k.title, ms(r.Down.Longest))
	return t, b.gateway.check(ctx)
}

func (b *bed) serverKilled(ctx context.Context, p pace, k serverKill) (t taken, err error) {
	var at time.Time
	var sent int64
	if err := b.gateway.check(ctx); err != nil {
		return t, err
	}
	r, err := b.killDownload(ctx, p, k, func(e traffic.ClientEvent) error {
		at, sent = time.Now(), e.Received
		return b.servers[0].Kill()
	})
	if err != nil {
		return t, err
	}
	kept, err := b.keptStatus(ctx, k.service, checkedPort+keptOffset(k.service))
	if err != nil {
		return t, err
	}
	id, lost, until := k.id(), 0, at.Add(killSpan)
	if !r.Intact {
		lost = 1
	}
	if k.service == "log" && kept.LastAt.After(until) {
		until = kept.LastAt // the spare had to begin anew
	}
	span := overlapping(r, at, until)
	t.values = map[string]float64{id + suffixGap: ms(span), id + suffixAny: ms(r.Down.Longest), id + suffixLost: float64(lost)}
	t.notes = whyLost(id+suffixLost, lost, r.Error)
	t.summary = fmt.Sprintf("%s: longest gap over it %.1f ms, anywhere %.1f ms; %d lost", k.title, ms(span), ms(r.Down.Longest), lost)
	if k.service == "log" && lost == 0 {
		if kept.Failovers != 1 {
			return t, fmt.Errorf("%w: %d failovers after one kill", errLoad, kept.Failovers)
		}
		k.parts(&t, kept, at, sent, span)
	}
	return t, b.gateway.check(ctx)
}

// parts are those of a gap over a kill with log.
func (k serverKill) parts(t *taken, kept control.Kept, at time.Time, sent int64, span time.Duration) {
	again := time.Duration(kept.LastMicros) * time.Microsecond
	known := kept.LastAt.Add(-again).Sub(at)
	rest := max(0, span-known-again)
	id, mib := k.id(), float64(sent)/(1<<20)
	t.values[id+suffixSent] = mib
	t.values[id+suffixKnown], t.values[id+suffixAgain], t.values[id+suffixRest] = ms(known), ms(again), ms(rest)
	t.summary += fmt.Sprintf("; %.2f MiB had been sent, known after %.2f ms, sent again %.1f ms later, %.1f ms remain", mib, ms(known), ms(again), ms(rest))
}

// revive starts servers again that were killed.
func (b *bed) revive(ctx context.Context) error {
	for i, s := range b.servers {
		if s.Running() {
			_ = s.Kill() // a process that was signalled may not be gone yet
		}
		<-s.Done()
		if err := b.startServer(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// overlapping is the longest gap of a download that overlaps a time. Only the longest gaps of
// the whole download are known: if none of them does, it is the shortest of them at most.
func overlapping(r traffic.Result, from, until time.Time) (longest time.Duration) {
	if len(r.Downs) == 0 {
		return 0
	}
	shortest := r.Downs[0].Longest
	for _, g := range r.Downs {
		shortest = min(shortest, g.Longest)
		if g.At.Before(until) && g.At.Add(g.Longest).After(from) {
			longest = max(longest, g.Longest)
		}
	}
	if longest == 0 {
		return shortest
	}
	return longest
}
