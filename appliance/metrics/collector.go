package metrics

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"lockstep/appliance/control"
)

// collector turns one Status into samples at each scrape.
type collector struct {
	provider control.Provider

	info, role, roleSince, epoch, inSync, peer *prometheus.Desc
	lagBytes, lagBatches, lagSeconds, rtt      *prometheus.Desc
	timeout, late                              *prometheus.Desc
	connections, takeovers, drops              *prometheus.Desc
	takeoverAt, takeoverSeconds, takeoverLegs  *prometheus.Desc
	takeoverLost, snapshotDone, snapshotTotal  *prometheus.Desc
	serviceConnections, serverHealthy          *prometheus.Desc
	memoryBuffered, memoryLimit                *prometheus.Desc
	kept, keptEvents, cookies                  *prometheus.Desc
	fit, differences, repairs                  *prometheus.Desc
}

func newCollector(p control.Provider) *collector {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("lockstep_"+name, help, labels, nil)
	}
	return &collector{
		provider:           p,
		info:               d("info", "Always 1; who this appliance is.", "version", "node", "pair"),
		role:               d("role", "1 for the role that this appliance has, 0 for the others.", "role"),
		roleSince:          d("role_since_seconds", "Unix time at which the present role began."),
		epoch:              d("epoch", "Epoch of the pair as known here."),
		inSync:             d("in_sync", "1 if the standby could take over now without loss."),
		peer:               d("peer_connected", "1 if the sync session with the peer stands.", "peer"),
		lagBytes:           d("lag_bytes", "Stream bytes that the standby has not confirmed."),
		lagBatches:         d("lag_batches", "Batches that the standby has not confirmed."),
		lagSeconds:         d("lag_seconds", "Age of the oldest thing that the standby has not confirmed."),
		timeout:            d("effective_timeout_seconds", "How long the peer's silence is borne: failure_timeout, or longer where something is late."),
		late:               d("late_seconds", "Longest delay of the last minute, of timers of this process and of the peer's heartbeats.", "who"),
		rtt:                d("sync_rtt_seconds", "Round trip on the sync link; 0 when not known."),
		connections:        d("connections", "Connections by state.", "state"),
		takeovers:          d("takeovers_total", "Takeovers done by this process."),
		takeoverAt:         d("last_takeover_timestamp_seconds", "Unix time of the last takeover."),
		takeoverSeconds:    d("last_takeover_duration_seconds", "From knowing that the active is gone to the last leg rebuilt."),
		takeoverLegs:       d("last_takeover_legs", "Legs rebuilt in the last takeover."),
		takeoverLost:       d("last_takeover_connections_lost", "Connections that the last takeover could not continue."),
		snapshotDone:       d("snapshot_done_connections", "Running connections that the newest standby has been told of, or that have ended."),
		snapshotTotal:      d("snapshot_connections", "Connections that ran when the newest standby joined."),
		cookies:            d("syn_cookies_total", "SYN cookies: sent to clients beyond the limit on handshakes, accepted from those that answered.", "what"),
		drops:              d("drops_total", "Packets, frames and connections dropped or refused, by reason.", "reason"),
		serviceConnections: d("service_connections", "Open connections of a service.", "service"),
		serverHealthy:      d("server_healthy", "1 if the server passes its health checks.", "service", "server"),
		kept:               d("kept", "Of connections that outlive their server: connections, replicas, in_step, orphans, log_bytes, lag_bytes.", "service", "what"),
		keptEvents:         d("kept_events_total", "Of connections that outlive their server: servers lost, failovers, divergences and the like.", "service", "event"),
		fit:                d("fit", "1 if the appliance could serve: networks, device, rules, disk. Of the peer as it says, if it does.", "who"),
		differences:        d("configuration_differences", "Differences of the two configurations that would cost connections at a takeover."),
		repairs:            d("repairs_total", "What somebody had changed in the kernel and was put back, by kind.", "kind"),
		memoryBuffered:     d("memory_buffered_bytes", "Bytes buffered over all connections."),
		memoryLimit:        d("memory_limit_bytes", "Limit of memory_buffered_bytes."),
	}
}

// Describe implements prometheus.Collector: the collector is unchecked (it
// sends nothing), since which samples exist depends on role and services.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	s := c.provider.Status()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) { emit(out, d, prometheus.GaugeValue, v, labels) }
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		emit(out, d, prometheus.CounterValue, v, labels)
	}

	gauge(c.info, 1, s.Version, s.Node, s.Pair)
	for _, role := range []string{control.RoleStarting, control.RoleActive, control.RoleStandby} {
		gauge(c.role, truth(s.Role == role), role)
	}
	if !s.Since.IsZero() {
		gauge(c.roleSince, float64(s.Since.UnixMicro())/1e6)
	}
	gauge(c.epoch, float64(s.Epoch))
	gauge(c.inSync, truth(s.InSync))
	if s.Peer.Name != "" {
		gauge(c.peer, truth(s.Peer.Connected), s.Peer.Name)
	}
	gauge(c.fit, truth(len(s.Fitness.Faults) == 0), "here")
	if s.Fitness.PeerKnown {
		gauge(c.fit, truth(len(s.Fitness.PeerFaults) == 0), "peer")
	}
	gauge(c.differences, float64(len(s.Fitness.Differences)))
	for kind, n := range s.Fitness.Repairs {
		counter(c.repairs, float64(n), kind)
	}
	gauge(c.snapshotDone, float64(s.Snapshot.Done))
	gauge(c.snapshotTotal, float64(s.Snapshot.Total))
	gauge(c.lagBytes, float64(s.Lag.Bytes))
	gauge(c.lagBatches, float64(s.Lag.Batches))
	gauge(c.lagSeconds, float64(s.Lag.Micros)/1e6)
	gauge(c.timeout, float64(s.Timing.EffectiveMicros)/1e6)
	gauge(c.late, float64(s.Timing.OwnLateMicros)/1e6, "here")
	gauge(c.late, float64(s.Timing.PeerLateMicros)/1e6, "peer")
	gauge(c.rtt, float64(s.RTTMicros)/1e6)
	for state, n := range map[string]int{
		"open": s.Connections.Open, "protected": s.Connections.Protected, "unprotected": s.Connections.Unprotected,
		"half_open": s.Connections.HalfOpen, "tombstone": s.Connections.Tombstones,
	} {
		gauge(c.connections, float64(n), state)
	}
	counter(c.cookies, float64(s.Connections.CookiesSent), "sent")
	counter(c.cookies, float64(s.Connections.CookiesAccepted), "accepted")
	counter(c.takeovers, float64(s.Takeovers))
	if t := s.LastTakeover; t != nil {
		gauge(c.takeoverAt, float64(t.At.UnixMicro())/1e6)
		gauge(c.takeoverSeconds, float64(t.DurationMicros)/1e6)
		gauge(c.takeoverLegs, float64(t.Legs))
		gauge(c.takeoverLost, float64(t.Lost))
	}
	for reason, n := range s.Drops {
		counter(c.drops, float64(n), reason)
	}
	for _, svc := range s.Services {
		gauge(c.serviceConnections, float64(svc.Connections), svc.Name)
		for _, server := range svc.Servers {
			gauge(c.serverHealthy, truth(server.Healthy), svc.Name, server.Addr)
		}
		c.collectKept(&svc, gauge, counter)
	}
	gauge(c.memoryBuffered, float64(s.Memory.BufferedBytes))
	gauge(c.memoryLimit, float64(s.Memory.Limit))
}

// collectKept sends what a service's connections that outlive their server have seen.
func (c *collector) collectKept(s *control.Service, gauge, counter func(*prometheus.Desc, float64, ...string)) {
	k := s.Kept
	if k == nil {
		return
	}
	for what, v := range map[string]float64{
		"connections": float64(k.Connections), "replicas": float64(k.Replicas), "in_step": float64(k.InStep),
		"orphans": float64(k.Orphans), "log_bytes": float64(k.LogBytes), "lag_bytes": float64(k.LagBytes),
	} {
		gauge(c.kept, v, s.Name, what)
	}
	for event, n := range map[string]uint64{
		"server_lost": k.Lost, "failover": k.Failovers, "replay": k.Replays, "switched": k.Switched,
		"claim_judged": k.Claims, "digest_compared": k.Compared, "divergence": k.Divergences,
		"unverified": k.Unverified, "given_up": k.GivenUp, "log_full": k.LogFull, "too_slow": k.TooSlow,
		"replay_refused": k.Refused,
	} {
		counter(c.keptEvents, float64(n), s.Name, event)
	}
}

// emit sends one sample; a label that is no UTF-8 must not cost the others.
func emit(out chan<- prometheus.Metric, d *prometheus.Desc, kind prometheus.ValueType, v float64, labels []string) {
	for i, l := range labels {
		labels[i] = strings.ToValidUTF8(l, "?")
	}
	m, err := prometheus.NewConstMetric(d, kind, v, labels...)
	if err != nil {
		m = prometheus.NewInvalidMetric(d, err)
	}
	out <- m
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
