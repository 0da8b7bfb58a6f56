package witness

import (
	"github.com/prometheus/client_golang/prometheus"
)

// collector makes samples of the voters' counters at each scrape.
type collector struct {
	w                                  *Witness
	epoch, active, standby, quorum     *prometheus.Desc
	connected, messages, refused, drop *prometheus.Desc
	failures, stalls                   *prometheus.Desc
}

func newCollector(w *Witness) *collector {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("lockstep_witness_"+name, help, labels, nil)
	}
	return &collector{
		w:         w,
		epoch:     d("epoch", "Epoch of the pair as committed.", "pair"),
		active:    d("active", "1 for the appliance that is active, 0 for the other.", "pair", "node"),
		standby:   d("standby_in_sync", "1 for the appliance that may take over, 0 for the other.", "pair", "node"),
		quorum:    d("quorum", "1 if an appliance of the pair is heard.", "pair"),
		connected: d("voter_connected", "1 if the appliance is connected.", "pair", "node"),
		messages:  d("messages_total", "Messages between the witness and an appliance.", "pair", "node", "direction"),
		drop:      d("messages_dropped_total", "Messages of the witness that were never sent, because too many waited.", "pair", "node"),
		refused:   d("refused_total", "Connections refused, by reason; no pair: it was not known which.", "pair", "reason"),
		failures:  d("state_write_failures_total", "Attempts to write the state file that failed.", "pair"),
		stalls:    d("stalls_total", "Times at which this process did not get to run when it should.", "pair"),
	}
}

// Describe implements prometheus.Collector; which samples exist depends on the pairs.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	emit := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		m, err := prometheus.NewConstMetric(d, kind, v, labels...)
		if err != nil {
			m = prometheus.NewInvalidMetric(d, err)
		}
		out <- m
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) { emit(d, prometheus.GaugeValue, v, labels...) }
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		emit(d, prometheus.CounterValue, float64(v), labels...)
	}
	for reason, n := range c.w.port.Refused() {
		counter(c.refused, n, "", reason)
	}
	for _, p := range c.w.pairs {
		s := p.voter.Stats()
		gauge(c.epoch, float64(s.News.State.Epoch), p.name)
		gauge(c.quorum, truth(s.News.Quorum), p.name)
		for _, node := range p.appliances {
			gauge(c.active, truth(s.News.State.Active.Node == node), p.name, node)
			gauge(c.standby, truth(s.News.State.Standby.Node == node), p.name, node)
		}
		for _, v := range s.Courier.Voters {
			gauge(c.connected, truth(v.Connected), p.name, v.Peer.Node)
			counter(c.messages, v.Sent, p.name, v.Peer.Node, "sent")
			counter(c.messages, v.Received, p.name, v.Peer.Node, "received")
			counter(c.drop, v.Dropped, p.name, v.Peer.Node)
		}
		for reason, n := range s.Courier.Refused {
			counter(c.refused, n, p.name, reason)
		}
		counter(c.failures, s.Failures, p.name)
		counter(c.stalls, s.Stalls, p.name)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
