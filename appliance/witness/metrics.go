package witness

import (
	"github.com/prometheus/client_golang/prometheus"

	"lockstep/appliance/metrics"
)

// Families are the witness's metrics, in the order of docs/metrics.md.
func Families() []metrics.Family {
	return []metrics.Family{
		{Name: "lockstep_witness_epoch", Help: "Epoch of the pair as committed.", Labels: []string{"pair"}},
		{Name: "lockstep_witness_active", Help: "1 for the appliance that is active, 0 for the other.", Labels: []string{"pair", "node"}},
		{Name: "lockstep_witness_standby_in_sync", Help: "1 for the appliance that may take over, 0 for the other.", Labels: []string{"pair", "node"}},
		{Name: "lockstep_witness_quorum", Help: "1 if an appliance of the pair is heard.", Labels: []string{"pair"}},
		{Name: "lockstep_witness_voter_connected", Help: "1 if the appliance is connected.", Labels: []string{"pair", "node"}},
		{Name: "lockstep_witness_messages_total", Help: "Messages between the witness and an appliance: sent, received.", Total: true, Labels: []string{"pair", "node", "direction"}},
		{Name: "lockstep_witness_messages_dropped_total", Help: "Messages of the witness that were never sent, because too many waited.", Total: true, Labels: []string{"pair", "node"}},
		{Name: "lockstep_witness_refused_total", Help: "Connections refused, by reason; no pair: it was not known which.", Total: true, Labels: []string{"pair", "reason"}},
		{Name: "lockstep_witness_state_write_failures_total", Help: "Attempts to write the state file that failed.", Total: true, Labels: []string{"pair"}},
		{Name: "lockstep_witness_stalls_total", Help: "Times at which this process did not get to run when it should.", Total: true, Labels: []string{"pair"}},
	}
}

// collector makes samples of the voters' counters at each scrape.
type collector struct {
	w        *server
	families metrics.Set
}

func newCollector(w *server) *collector { return &collector{w, metrics.NewSet(Families())} }

// Describe implements prometheus.Collector; which samples exist depends on the pairs.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	emit := c.families.Emit(out)
	for reason, n := range c.w.port.Refused() {
		emit("lockstep_witness_refused_total", float64(n), "", reason)
	}
	for _, p := range c.w.pairs {
		s := p.voter.Stats()
		emit("lockstep_witness_epoch", float64(s.News.State.Epoch), p.name)
		emit("lockstep_witness_quorum", metrics.Truth(s.News.Quorum), p.name)
		for _, node := range p.appliances {
			emit("lockstep_witness_active", metrics.Truth(s.News.State.Active.Node == node), p.name, node)
			emit("lockstep_witness_standby_in_sync", metrics.Truth(s.News.State.Standby.Node == node), p.name, node)
		}
		for _, v := range s.Courier.Voters {
			emit("lockstep_witness_voter_connected", metrics.Truth(v.Connected), p.name, v.Peer.Node)
			emit("lockstep_witness_messages_total", float64(v.Sent), p.name, v.Peer.Node, "sent")
			emit("lockstep_witness_messages_total", float64(v.Received), p.name, v.Peer.Node, "received")
			emit("lockstep_witness_messages_dropped_total", float64(v.Dropped), p.name, v.Peer.Node)
		}
		for reason, n := range s.Courier.Refused {
			emit("lockstep_witness_refused_total", float64(n), p.name, reason)
		}
		emit("lockstep_witness_state_write_failures_total", float64(s.Failures), p.name)
		emit("lockstep_witness_stalls_total", float64(s.Stalls), p.name)
	}
}
