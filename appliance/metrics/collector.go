package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lockstep/appliance/control"
)

// Families are an appliance's metrics, in the order of docs/metrics.md.
func Families() []Family {
	return append([]Family{
		{"lockstep_info", "Always 1; who this appliance is.", false, []string{"version", "node", "pair"}},
		{"lockstep_role", "1 for the role that this appliance has (starting, active, standby), 0 for the others.", false, []string{"role"}},
		{"lockstep_role_since_seconds", "Unix time at which the present role began.", false, nil},
		{"lockstep_epoch", "Epoch of the pair as known here.", false, nil},
		{"lockstep_in_sync", "1 if the standby could take over now without loss.", false, nil},
		{"lockstep_fit", "1 if the appliance could serve: networks, device, rules, disk. Of here, and of the peer as it says, if it does.", false, []string{"who"}},
		{"lockstep_configuration_differences", "Differences of the two configurations that would cost connections at a takeover.", false, nil},
		{"lockstep_repairs_total", "What somebody had changed in the kernel and was put back, by kind.", true, []string{"kind"}},

		{"lockstep_peer_connected", "1 if the sync session with the peer stands.", false, []string{"peer"}},
		{"lockstep_sync_rtt_seconds", "Round trip on the sync link; 0 when not known.", false, nil},
		{"lockstep_lag_bytes", "Stream bytes that the standby has not confirmed.", false, nil},
		{"lockstep_lag_batches", "Batches that the standby has not confirmed.", false, nil},
		{"lockstep_lag_seconds", "Age of the oldest thing that the standby has not confirmed.", false, nil},
		{"lockstep_snapshot_done_connections", "Running connections that the newest standby has been told of, or that have ended.", false, nil},
		{"lockstep_snapshot_connections", "Connections that ran when the newest standby joined.", false, nil},

		{"lockstep_silent", "1 if this appliance is active and may not speak, since its lease from the voters is over. Only with a witness, as the next six.", false, nil},
		{"lockstep_quorum_heard", "1 if a majority of the voters was heard of a moment ago.", false, nil},
		{"lockstep_quorum_leader", "1 if this appliance leads the voters.", false, nil},
		{"lockstep_quorum_witness_connected", "1 if the witness is connected.", false, nil},
		{"lockstep_quorum_epoch", "Epoch of the active as the voters have agreed on it.", false, nil},
		{"lockstep_quorum_active", "1 for the node that is active as the voters have agreed; none before the first claim.", false, []string{"node"}},
		{"lockstep_quorum_standby", "1 for the node that may take over; none if the active is alone.", false, []string{"node"}},

		{"lockstep_failure_timeout_seconds", "How long a silence is borne where nothing is late, as configured.", false, nil},
		{"lockstep_effective_timeout_seconds", "How long the peer's silence is borne: failure_timeout, or longer where something is late.", false, nil},
		{"lockstep_promised_timeout_seconds", "How long without a witness the standby has promised to bear silence, which is the active's lease; 0: no session.", false, nil},
		{"lockstep_hold_down", "1 for a moment after a takeover, in which silence is borne for the longest time.", false, nil},
		{"lockstep_late_seconds", "Longest delay of the last minute: of timers here, of the heartbeats of the peer.", false, []string{"who"}},

		{"lockstep_takeovers_total", "Takeovers done by this process.", true, nil},
		{"lockstep_last_takeover_timestamp_seconds", "Unix time of the last takeover.", false, nil},
		{"lockstep_last_takeover_duration_seconds", "From knowing that the active is gone to the last leg rebuilt.", false, nil},
		{"lockstep_last_takeover_connections", "Connections of the last takeover.", false, nil},
		{"lockstep_last_takeover_legs", "Legs rebuilt in the last takeover.", false, nil},
		{"lockstep_last_takeover_connections_lost", "Connections that the last takeover could not continue.", false, nil},
		{"lockstep_last_loss_timestamp_seconds", "Unix time of the last start without the connections that somebody had held.", false, nil},
		{"lockstep_last_loss_connections", "Connections lost then, as far as this appliance knew.", false, nil},
		{"lockstep_last_loss_service_connections", "The same by service.", false, []string{"service"}},

		{"lockstep_connections", "Connections by state: open, protected, unprotected, half_open, tombstone.", false, []string{"state"}},
		{"lockstep_in_flight_total", "Segments under way while the active changed: given to the peer in a hand-over, kept until this one was the active.", true, []string{"what"}},
		{"lockstep_syn_cookies_total", "SYN cookies: sent to clients beyond the limit on handshakes, accepted from those that answered.", true, []string{"what"}},
		{"lockstep_drops_total", "Packets, frames and connections dropped or refused, by reason.", true, []string{"reason"}},
		{"lockstep_memory_buffered_bytes", "Bytes buffered over all connections.", false, nil},
		{"lockstep_memory_limit_bytes", "Limit of lockstep_memory_buffered_bytes.", false, nil},

		{"lockstep_wrapped_servers", "Servers under lockstep wrap that ask this appliance at present.", false, nil},
		{"lockstep_wrapped_lives", "Connections of theirs, and starts of their programs, of which something is decided.", false, nil},
		{"lockstep_wrapped_decided_bytes", "Bytes of what is decided.", false, nil},
		{"lockstep_steering", "1 if services' packets take the short cut past routing and packet filter.", false, nil},
		{"lockstep_steered_packets_total", "Packets that took it: front, back (from there), out (of the process), flows (from NIC to NIC, past the process).", true, []string{"way"}},
		{"lockstep_steered_connections", "Connections whose segments go from NIC to NIC (networks.steering: flows).", false, nil},
		{"lockstep_steered_connections_total", "Connections that were: entered, left (came back to the process).", true, []string{"what"}},
	}, serviceFamilies()...)
}

// serviceFamilies are those of each service, and of its servers.
func serviceFamilies() []Family {
	return []Family{
		{"lockstep_service_connections", "Open connections of a service.", false, []string{"service"}},
		{"lockstep_service_path_connections", "The same by path: spliced, terminated.", false, []string{"service", "path"}},
		{"lockstep_service_taken_up_total", "Connections that were passed on and whose clients did not read: done (ended here since), given_up (still passed on).", true, []string{"service", "result"}},
		{"lockstep_service_parked_connections", "Of the terminated: idle, without endpoints until something comes.", false, []string{"service"}},
		{"lockstep_server_healthy", "0 if the server fails its health check, or has refused a connection lately.", false, []string{"service", "server"}},
		{"lockstep_server_connections", "Connections that the server has, or that are on their way to it.", false, []string{"service", "server"}},
		{"lockstep_server_beside_connections", "Connections of protection hot that the server runs beside the one whose bytes the client gets.", false, []string{"service", "server"}},
		{"lockstep_server_weight", "The server's share beside the others'.", false, []string{"service", "server"}},
		{"lockstep_server_backup", "1 if the server serves only while no other is up that is none.", false, []string{"service", "server"}},
		{"lockstep_server_ready", "0 if the operator has ordered that the server gets no new connections (lockstep server).", false, []string{"service", "server"}},
		{"lockstep_server_checked", "1 if the server was asked, by a health check or by clients' connections in its place.", false, []string{"service", "server"}},
		{"lockstep_kept", "Of connections that outlive their server: connections, replicas, in_step, orphans, log_bytes, lag_bytes.", false, []string{"service", "what"}},
		{"lockstep_kept_events_total", "Of connections that outlive their server: server_lost, failover, replay, switched, claim_judged, digest_compared, divergence, unverified, given_up, log_full, too_slow, replay_refused.", true, []string{"service", "event"}},
		{"lockstep_last_failover_timestamp_seconds", "Unix time of the service's last failover to another server.", false, []string{"service"}},
		{"lockstep_last_failover_duration_seconds", "From knowing that the server was lost to another one going on.", false, []string{"service"}},
		{"lockstep_last_divergence_timestamp_seconds", "Unix time at which a server last sent something else than what the client has.", false, []string{"service"}},
	}
}

// collector turns one Status into samples at each scrape.
type collector struct {
	provider control.Provider
	families Set
}

func newCollector(p control.Provider) *collector { return &collector{p, NewSet(Families())} }

// Describe implements prometheus.Collector: the collector is unchecked (it
// sends nothing), since which samples exist depends on role and services.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// emitter sends one sample.
type emitter func(name string, v float64, labels ...string)

// at sends a moment, if there is one.
func (e emitter) at(name string, t time.Time, labels ...string) {
	if !t.IsZero() {
		e(name, float64(t.UnixMicro())/1e6, labels...)
	}
}

func micros(n int64) float64 { return float64(n) / 1e6 }

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	s := c.provider.Status()
	emit := emitter(c.families.Emit(out))
	emit("lockstep_info", 1, s.Version, s.Node, s.Pair)
	for _, role := range []string{control.RoleStarting, control.RoleActive, control.RoleStandby} {
		emit("lockstep_role", Truth(s.Role == role), role)
	}
	emit.at("lockstep_role_since_seconds", s.Since)
	emit("lockstep_epoch", float64(s.Epoch))
	emit("lockstep_in_sync", Truth(s.InSync))
	emit("lockstep_fit", Truth(len(s.Fitness.Faults) == 0), "here")
	if s.Fitness.PeerKnown {
		emit("lockstep_fit", Truth(len(s.Fitness.PeerFaults) == 0), "peer")
	}
	emit("lockstep_configuration_differences", float64(len(s.Fitness.Differences)))
	for kind, n := range s.Fitness.Repairs {
		emit("lockstep_repairs_total", float64(n), kind)
	}
	emit("lockstep_steering", Truth(s.Steering.On))
	emit("lockstep_steered_connections", float64(s.Steering.Flows))
	emit("lockstep_steered_connections_total", float64(s.Steering.Entered), "entered")
	emit("lockstep_steered_connections_total", float64(s.Steering.Left), "left")
	for way, n := range s.Steering.Packets {
		emit("lockstep_steered_packets_total", float64(n), way)
	}
	emit.sync(&s)
	emit.quorum(s.Quorum)
	emit.past(&s)
	for state, n := range map[string]int{
		"open": s.Connections.Open, "protected": s.Connections.Protected, "unprotected": s.Connections.Unprotected,
		"half_open": s.Connections.HalfOpen, "tombstone": s.Connections.Tombstones,
	} {
		emit("lockstep_connections", float64(n), state)
	}
	emit("lockstep_syn_cookies_total", float64(s.Connections.CookiesSent), "sent")
	emit("lockstep_syn_cookies_total", float64(s.Connections.CookiesAccepted), "accepted")
	emit("lockstep_in_flight_total", float64(s.Connections.HandedOn), "handed_on")
	emit("lockstep_in_flight_total", float64(s.Connections.Held), "held")
	for reason, n := range s.Drops {
		emit("lockstep_drops_total", float64(n), reason)
	}
	emit("lockstep_memory_buffered_bytes", float64(s.Memory.BufferedBytes))
	emit("lockstep_memory_limit_bytes", float64(s.Memory.Limit))
	if w := s.Wrapped; w != nil {
		emit("lockstep_wrapped_servers", float64(len(w.Servers)))
		emit("lockstep_wrapped_lives", float64(w.Lives))
		emit("lockstep_wrapped_decided_bytes", float64(w.DecidedBytes))
	}
	for _, svc := range s.Services {
		emit("lockstep_service_connections", float64(svc.Connections), svc.Name)
		emit("lockstep_service_path_connections", float64(svc.Spliced), svc.Name, "spliced")
		emit("lockstep_service_path_connections", float64(svc.Terminated), svc.Name, "terminated")
		emit("lockstep_service_taken_up_total", float64(svc.TakenUp), svc.Name, "done")
		emit("lockstep_service_taken_up_total", float64(svc.TakeGivenUp), svc.Name, "given_up")
		emit("lockstep_service_parked_connections", float64(svc.Parked), svc.Name)
		for _, server := range svc.Servers {
			emit("lockstep_server_healthy", Truth(server.Healthy), svc.Name, server.Addr)
			emit("lockstep_server_connections", float64(server.Connections), svc.Name, server.Addr)
			emit("lockstep_server_beside_connections", float64(server.Beside), svc.Name, server.Addr)
			emit("lockstep_server_weight", float64(server.Weight), svc.Name, server.Addr)
			emit("lockstep_server_backup", Truth(server.Backup), svc.Name, server.Addr)
			emit("lockstep_server_ready", Truth(server.State == control.ServerReady), svc.Name, server.Addr)
			emit("lockstep_server_checked", Truth(server.Checked), svc.Name, server.Addr)
		}
		emit.kept(&svc)
	}
}

// sync is what the sync link and its standby are like.
func (emit emitter) sync(s *control.Status) {
	if s.Peer.Name != "" {
		emit("lockstep_peer_connected", Truth(s.Peer.Connected), s.Peer.Name)
	}
	emit("lockstep_sync_rtt_seconds", micros(s.RTTMicros))
	emit("lockstep_lag_bytes", float64(s.Lag.Bytes))
	emit("lockstep_lag_batches", float64(s.Lag.Batches))
	emit("lockstep_lag_seconds", micros(s.Lag.Micros))
	emit("lockstep_snapshot_done_connections", float64(s.Snapshot.Done))
	emit("lockstep_snapshot_connections", float64(s.Snapshot.Total))
	emit("lockstep_failure_timeout_seconds", micros(s.Timing.FailureTimeoutMicros))
	emit("lockstep_effective_timeout_seconds", micros(s.Timing.EffectiveMicros))
	emit("lockstep_promised_timeout_seconds", micros(s.Timing.PromisedMicros))
	emit("lockstep_hold_down", Truth(s.Timing.HoldDown))
	emit("lockstep_late_seconds", micros(s.Timing.OwnLateMicros), "here")
	emit("lockstep_late_seconds", micros(s.Timing.PeerLateMicros), "peer")
}

// quorum is what the voters have agreed on; nil: there is no witness.
func (emit emitter) quorum(q *control.Quorum) {
	if q == nil {
		return
	}
	emit("lockstep_silent", Truth(q.Silent))
	emit("lockstep_quorum_heard", Truth(q.Heard))
	emit("lockstep_quorum_leader", Truth(q.Leader))
	emit("lockstep_quorum_witness_connected", Truth(q.Witness))
	emit("lockstep_quorum_epoch", float64(q.Epoch))
	if q.Active != "" {
		emit("lockstep_quorum_active", 1, q.Active)
	}
	if q.Standby != "" {
		emit("lockstep_quorum_standby", 1, q.Standby)
	}
}

// past is what takeovers there were, and what was lost.
func (emit emitter) past(s *control.Status) {
	emit("lockstep_takeovers_total", float64(s.Takeovers))
	if t := s.LastTakeover; t != nil {
		emit.at("lockstep_last_takeover_timestamp_seconds", t.At)
		emit("lockstep_last_takeover_duration_seconds", micros(t.DurationMicros))
		emit("lockstep_last_takeover_connections", float64(t.Connections))
		emit("lockstep_last_takeover_legs", float64(t.Legs))
		emit("lockstep_last_takeover_connections_lost", float64(t.Lost))
	}
	if l := s.LastLoss; l != nil {
		emit.at("lockstep_last_loss_timestamp_seconds", l.At)
		emit("lockstep_last_loss_connections", float64(l.Connections))
		for service, n := range l.Services {
			emit("lockstep_last_loss_service_connections", float64(n), service)
		}
	}
}

// kept is what a service's connections that outlive their server have seen.
func (emit emitter) kept(s *control.Service) {
	k := s.Kept
	if k == nil {
		return
	}
	for what, v := range map[string]float64{
		"connections": float64(k.Connections), "replicas": float64(k.Replicas), "in_step": float64(k.InStep),
		"orphans": float64(k.Orphans), "log_bytes": float64(k.LogBytes), "lag_bytes": float64(k.LagBytes),
	} {
		emit("lockstep_kept", v, s.Name, what)
	}
	for event, n := range map[string]uint64{
		"server_lost": k.Lost, "failover": k.Failovers, "replay": k.Replays, "switched": k.Switched,
		"claim_judged": k.Claims, "digest_compared": k.Compared, "divergence": k.Divergences,
		"unverified": k.Unverified, "given_up": k.GivenUp, "log_full": k.LogFull, "too_slow": k.TooSlow,
		"replay_refused": k.Refused,
	} {
		emit("lockstep_kept_events_total", float64(n), s.Name, event)
	}
	if !k.LastAt.IsZero() {
		emit.at("lockstep_last_failover_timestamp_seconds", k.LastAt, s.Name)
		emit("lockstep_last_failover_duration_seconds", micros(k.LastMicros), s.Name)
	}
	emit.at("lockstep_last_divergence_timestamp_seconds", k.DivergedAt, s.Name)
}
