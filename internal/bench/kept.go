package bench

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
	"lockstep/internal/pair"
)

// What it costs that connections outlive their server: throughput beside that of gateway, in one
// lab, on the same links, and the memory of a connection whose servers are far apart.

// keptServices are those of protection log and hot, with two servers each. The i-th has the ports
// checkedPort+1+i and leanPort+1+i.
var keptServices = [...]struct {
	name       string
	protection config.Protection
	release    config.Release
}{
	{"log", config.ProtectLog, config.ReleasePrimary},
	{"primary", config.ProtectHot, config.ReleasePrimary},
	{"first", config.ProtectHot, config.ReleaseFirst},
}

// keptOffset is what to add to checkedPort or leanPort for a service; 0: that of gateway.
func keptOffset(name string) int {
	for i, s := range keptServices {
		if s.name == name {
			return 1 + i
		}
	}
	return 0
}

// outlive makes connections of a service with one server outlive it. A busy machine may take its time for a health check; and
// the tcp one passes while a server is stopped, as aheadStep wants it.
func outlive(s *config.Service, p config.Protection, port int) {
	s.Servers = append(s.Servers, netip.AddrPortFrom(netip.MustParseAddr("10.20.0.12"), uint16(port)))
	s.Protection = p
	s.Health.Interval, s.Health.Timeout = time.Second, time.Second
}

// keptServicesConfig is their configuration.
func keptServicesConfig() (all []config.Service) {
	for i, k := range keptServices {
		for _, port := range []int{checkedPort + 1 + i, leanPort + 1 + i} {
			s := pair.Service(fmt.Sprintf("%s%d", k.name, port), []string{fmt.Sprintf("%s:%d", lab.VIP4, port)}, []string{fmt.Sprintf("10.20.0.11:%d", port)})
			outlive(&s, k.protection, port)
			s.Release = k.release
			all = append(all, s)
		}
	}
	return all
}

// IDs of the figures. Of those of throughput, a prefix and the protection.
const (
	keptRate     = "kept-"
	aheadActive  = "ahead-active"
	aheadStandby = "ahead-standby"
)

// protections in the order of the rows.
var protections = [...]struct{ name, service string }{{"gateway", ""}, {"log", "log"}, {"hot", "primary"}}

func keptFigures(ahead int64) (all []figure) {
	const what = "bulk download, 1 stream, protection "
	for _, p := range protections {
		all = append(all, figure{keptRate + p.name, what + p.name, "Gbit/s", 2})
	}
	for _, p := range protections {
		all = append(all, figure{keptRate + p.name + suffixCPU, "CPU of both appliances, " + what + p.name, "s/GiB", 2})
	}
	for _, p := range protections {
		all = append(all, figure{keptRate + p.name + suffixMachine, "CPU of the whole machine, servers included, " + what + p.name, "s/GiB", 2})
	}
	all = append(all, serverKillFigures()...)
	far := fmt.Sprintf("one replica of a hot connection %d MiB ahead: memory of the connection, ", ahead>>20)
	return append(all,
		figure{aheadActive, far + "active", "MiB", 2},
		figure{aheadStandby, far + "standby", "MiB", 2})
}

func keptTargets() (all []target) {
	for _, p := range protections[1:] {
		limit := 0.95
		if p.name == "hot" {
			limit = 0.55 // the second copy's bytes arrive on the same CPUs
		}
		all = append(all, target{
			title: "bulk download, 1 stream, protection " + p.name + " : gateway", digits: 2, limit: limit, atLeast: true,
			value: func(s *samples, m mode) (float64, bool) {
				return s.compare(key{m, paired, keptRate + p.name}, key{m, paired, keptRate + "gateway"}, ratio)
			},
		})
	}
	all = append(all, serverKillTargets()...)
	return append(all, medianTarget("memory of a hot connection on which one replica is far ahead", aheadActive, "MiB", 2, 4))
}

const (
	costKept  = 8 * time.Second
	costAhead = 30 * time.Second
)

// keptRuns does this round's share of what concerns connections that outlive their server.
func (b *bench) keptRuns(ctx context.Context, round int, m mode) {
	var steps []indexed
	add := func(s step, index int) {
		if b.wanted(s.ids...) {
			steps = append(steps, indexed{s, index})
		}
	}
	add(b.keptStep(), round)
	// As with idle connections: once is enough, where the links are fastest.
	if round == 0 && m == b.modes[len(b.modes)-1] {
		add(b.aheadStep(), round)
	}
	first, end := b.share(round)
	if b.runs > 0 {
		add(b.serverKillStep(serverKillNone), round)
	}
	for run := first; run < end; run++ {
		for _, k := range serverKills {
			add(b.serverKillStep(k), run)
		}
	}
	if len(steps) == 0 {
		return
	}
	o := b.bedOptions
	o.kept = true
	b.episodes(ctx, round, m, o, steps)
}

// keptStep measures one download under each protection, twice in mirrored order: what changes
// slowly meanwhile meets all alike.
func (b *bench) keptStep() step {
	var ids []string
	for _, p := range protections {
		id := keptRate + p.name
		ids = append(ids, id, id+suffixCPU, id+suffixMachine)
	}
	cost := costKept + 2*time.Duration(len(protections))*(costLoad+b.duration)
	return step{ids: ids, cost: cost, run: func(ctx context.Context, bed *bed) (t taken, err error) {
		var sums [len(protections)]window
		for i := range 2 * len(protections) {
			if i >= len(protections) {
				i = 2*len(protections) - 1 - i
			}
			p := protections[i]
			if p.name != "gateway" && !b.wanted(keptRate+p.name, keptRate+p.name+suffixCPU, keptRate+p.name+suffixMachine) {
				continue
			}
			l := load{Kind: loadDown, Connections: 1, Addr: bed.target(leanPort + keptOffset(p.service))}
			w, err := bed.measure(ctx, l, b.pace.warmUp, b.duration)
			if err != nil {
				return t, fmt.Errorf("protection %s: %w", p.name, err)
			}
			sums[i].add(w)
		}
		t.values = make(map[string]float64)
		for i, p := range protections {
			w, id := sums[i], keptRate+p.name
			if w.elapsed == 0 {
				continue
			}
			t.values[id], t.values[id+suffixCPU], t.values[id+suffixMachine] = w.gbits(), w.perGiB(w.cpu), w.perGiB(w.machine)
			t.summary += fmt.Sprintf("%s: %.2f Gbit/s, %.1f s/GiB; ", p.name, w.gbits(), w.perGiB(w.cpu))
		}
		t.summary = "one download by protection: " + strings.TrimSuffix(t.summary, "; ")
		return t, bed.gateway.check(ctx)
	}}
}

// add another window of the same load, but for latencies.
func (w *window) add(o window) {
	w.elapsed += o.elapsed
	w.received += o.received
	w.cpu += o.cpu
	w.machine += o.machine
}

// aheadStep lets a client download while the backup server is stopped: that one's output must be
// compared when it comes, however late. The memory is that of a connection that is open, on which
// nothing moves any more, beyond what the processes had after a download of the same size that both
// servers have sent.
func (b *bench) aheadStep() step {
	return step{ids: []string{aheadActive, aheadStandby}, cost: costAhead, run: func(ctx context.Context, bed *bed) (t taken, err error) {
		grown, lag, err := bed.ahead(ctx, b.pace.ahead)
		if err != nil {
			return t, err
		}
		t.values = map[string]float64{aheadActive: grown[0], aheadStandby: grown[1]}
		t.summary = fmt.Sprintf("one replica %d MiB ahead: %.2f MiB on the active, %.2f MiB on the standby", lag>>20, grown[0], grown[1])
		return t, nil
	}}
}

// ahead returns by how many MiB active and standby have grown, and how far the replicas are apart.
func (b *bed) ahead(ctx context.Context, bytes int64) (grown []float64, lag uint64, err error) {
	port := checkedPort + keptOffset("primary")
	down := traffic.Request{Mode: traffic.Stream, Down: traffic.Flow{Size: bytes}, Repeatable: true}
	args := traffic.ClientArgs{Addr: b.target(port), Requests: []traffic.Batch{{Count: 1, Request: down}}, Patience: patience, Every: cutReport}
	client, err := b.checkedClient(args)
	if err != nil {
		return nil, 0, err
	}
	defer func() { client.Finish() }()
	e, err := awaitSummary(ctx, client, aheadTimeout)
	if err == nil && e.Summary.Lost > 0 {
		err = fmt.Errorf("%w: the download that both have sent: %v", errLoad, e.Summary.Errors)
	}
	if err != nil {
		return nil, 0, err
	}
	if err := b.drained(ctx); err != nil {
		return nil, 0, err
	}
	before, err := b.memory(ctx)
	if err != nil {
		return nil, 0, err
	}
	backup := b.servers[1]
	if err := backup.Stop(); err != nil {
		return nil, 0, err
	}
	defer func() { _ = backup.Signal(syscall.SIGCONT) }() // one that has ended is no matter
	// An upload of a byte now and then keeps the connection open.
	down.Up = traffic.Flow{Size: int64(aheadTimeout / time.Second), Chunk: 1, Pace: time.Second}
	args.Requests[0].Request = down
	if client, err = b.checkedClient(args); err != nil {
		return nil, 0, err
	}
	if err := awaitReceived(ctx, client, bytes, aheadTimeout); err != nil {
		return nil, 0, fmt.Errorf("the download that one has sent: %w", err)
	}
	after, err := b.memory(ctx)
	if err != nil {
		return nil, 0, err
	}
	k, err := b.keptStatus(ctx, "primary", port)
	if err != nil {
		return nil, 0, err
	}
	if k.Replicas != 2 || int64(k.LagBytes) < bytes {
		return nil, 0, fmt.Errorf("%w: %d replicas, %d bytes apart", errLoad, k.Replicas, k.LagBytes)
	}
	for i := range before {
		grown = append(grown, float64(after[i]-before[i])/(1<<20))
	}
	return grown, k.LagBytes, nil
}

// aheadTimeout bounds a download of pace.ahead, and how long its connection stays open.
const aheadTimeout = 2 * time.Minute

// awaitReceived waits until a client has received so many bytes.
func awaitReceived(ctx context.Context, client *lab.RoleProc, bytes int64, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		var e traffic.ClientEvent
		if err := client.Next(ctx, &e); err != nil {
			return err
		}
		if e.Received >= bytes {
			return nil
		}
		if e.Summary != nil {
			return fmt.Errorf("%w: it ended after %d of %d bytes: %v", errLoad, e.Received, bytes, e.Summary.Errors)
		}
	}
}

// keptStatus is what the active says of a service's servers.
func (b *bed) keptStatus(ctx context.Context, service string, port int) (control.Kept, error) {
	active, _, err := b.pairOf()
	if err != nil {
		return control.Kept{}, err
	}
	s, err := active.Status(ctx)
	if err != nil {
		return control.Kept{}, err
	}
	name := fmt.Sprintf("%s%d", service, port)
	for _, svc := range s.Services {
		if svc.Name == name && svc.Kept != nil {
			return *svc.Kept, nil
		}
	}
	return control.Kept{}, fmt.Errorf("the active says nothing of the servers of service %q", name)
}
